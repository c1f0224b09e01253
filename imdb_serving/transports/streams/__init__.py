"""Byte streams: what a server over plain sockets needs whatever it speaks. No messages, no HTTP."""
