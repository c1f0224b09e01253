"""The client's end of a stream: a connected socket whose waits have a limit that costs nothing."""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from time import perf_counter_ns

RESTED_NS = 1_000_000
"""After how long without a request it is worth a look at what became of the connection meanwhile."""

LONG = 1 << 16
"""Bytes of a message from which on sending may itself take a part of the time that is left."""


class KernelTimedSocket:
    """A connected socket whose time-outs are the kernel's: with Python's every call would be two.

    `send` and `recv` are the socket's own; they raise `BlockingIOError` when the limit has passed.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Take it; it is blocking from now on."""
        connection.settimeout(None)
        if connection.family != getattr(socket, "AF_UNIX", None):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(connection, select.POLLIN)
        self._writable.register(connection, select.POLLOUT)
        self.seconds = 0.0
        self.send, self.recv = connection.send, connection.recv

    def limit(self, seconds: float) -> None:
        """Have every single call wait at most so long."""
        if seconds != self.seconds:
            value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6) or 1)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
            self.seconds = seconds

    def send_rest(self, data: bytes, sent: int, deadline_ns: int) -> None:
        """Send what one call did not; raise `TimeoutError` when the deadline (of `perf_counter_ns`) has passed."""
        while sent < len(data):
            if not self._writable.poll(_left_ms(deadline_ns)):
                raise TimeoutError
            with suppress(BlockingIOError):
                sent += self.connection.send(memoryview(data)[sent:], socket.MSG_DONTWAIT)

    def await_more(self, deadline_ns: int) -> None:
        """Wait until there is something to read; raise `TimeoutError` at the deadline (of `perf_counter_ns`)."""
        if not self._readable.poll(_left_ms(deadline_ns)):
            raise TimeoutError

    def is_readable(self) -> bool:
        """Tell whether there is something to read, its end included."""
        return bool(self._readable.poll(0))

    def has_ended(self) -> bool:
        """Tell whether the other end has closed the connection, and all it said was read."""
        try:
            return self.is_readable() and not self.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return True

    def close(self) -> None:
        """Close it."""
        self.connection.close()


def _left_ms(deadline_ns: int) -> float:
    return max(0.0, (deadline_ns - perf_counter_ns()) / 1e6)
