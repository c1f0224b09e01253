"""The client's end of a stream: a connected socket whose waits have a limit that costs nothing."""

from __future__ import annotations

import select
import socket
import struct
from time import perf_counter_ns

RESTED_NS = 1_000_000
"""After how long without a request it is worth a look at what became of the connection meanwhile."""


class KernelTimedSocket:
    """A connected socket whose time-outs are the kernel's: with Python's every call would be two.

    `sendall` and `recv` are the socket's own; they raise `BlockingIOError` when the limit has passed.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Take it; it is blocking from now on."""
        connection.settimeout(None)
        if connection.family != getattr(socket, "AF_UNIX", None):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._limit = 0.0
        self.sendall, self.recv = connection.sendall, connection.recv

    def limit(self, seconds: float) -> None:
        """Have every single call wait at most so long."""
        if seconds != self._limit:
            value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6) or 1)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
            self._limit = seconds

    def await_more(self, deadline_ns: int) -> None:
        """Wait until there is something to read; raise `TimeoutError` at the deadline (of `perf_counter_ns`)."""
        if not self._poll.poll(max(0.0, (deadline_ns - perf_counter_ns()) / 1e6)):
            raise TimeoutError

    def is_readable(self) -> bool:
        """Tell whether there is something to read, its end included."""
        return bool(self._poll.poll(0))

    def has_ended(self) -> bool:
        """Tell whether the other end has closed the connection, and all it said was read."""
        try:
            return self.is_readable() and not self.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return True

    def close(self) -> None:
        """Close it."""
        self.connection.close()
