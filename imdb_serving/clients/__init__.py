"""One call to a server over ZeroMQ, sockets, HTTP or curl, or to several servers. Knows no engine and no model."""
