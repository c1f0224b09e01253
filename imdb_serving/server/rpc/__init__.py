"""RPC: one protocol over plain sockets, ZeroMQ and, for tests, within a process. Knows no HTTP."""
