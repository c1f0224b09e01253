"""The client's end of RPC over a plain socket, and the connected socket with time-outs that all clients use."""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from time import perf_counter_ns

from imdb_serving.clients.rpc import MessageClient
from imdb_serving.config import DEFAULT_TIMEOUT, MAX_ANSWER_BYTES
from imdb_serving.errors import BadRequest, RemoteFailure
from imdb_serving.protocol.endpoints import socket_address
from imdb_serving.protocol.framing import Piece, missing, unpack

RESTED_NS = 1_000_000
"""After how long without a request it is worth a look at what became of the connection meanwhile."""

LONG = 1 << 16
"""Bytes of a message from which on sending may itself take a part of the time that is left."""


class KernelTimedSocket:
    """A connected socket with the kernel's time-outs (SO_RCVTIMEO); Python's take a second system call each time.

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
        """Wait for data; raise `TimeoutError` at the deadline (of `perf_counter_ns`)."""
        if not self._readable.poll(_left_ms(deadline_ns)):
            raise TimeoutError

    def is_readable(self) -> bool:
        """Return whether data or the end of the stream can be read."""
        return bool(self._readable.poll(0))

    def has_ended(self) -> bool:
        """Tell whether the other end has closed the connection, and all it said was read."""
        try:
            return self.is_readable() and not self.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return True

    def close(self) -> None:
        self.connection.close()


def _left_ms(deadline_ns: int) -> float:
    return max(0.0, (deadline_ns - perf_counter_ns()) / 1e6)


CHUNK = 1 << 14


class SocketClient(MessageClient):
    """A client of one RPC server over a plain socket, for use in one thread.

    >>> with SocketClient("socket://127.0.0.1:9293") as client:  # doctest: +SKIP
    ...     client.predict({"words": [8, 233, 52], "label": 0}, ["prediction", "acc"])

    `timeout` is each request's deadline in seconds. After an error the same object can be used again.
    """

    _socket: KernelTimedSocket | None = None

    def __init__(
        self, endpoint: str, *, timeout: float = DEFAULT_TIMEOUT, max_answer_bytes: int = MAX_ANSWER_BYTES
    ) -> None:
        """Take the endpoint; the connection is made with the first request, and kept."""
        super().__init__(endpoint, timeout, max_answer_bytes)
        self._address = socket_address(endpoint)
        self._begun = bytearray()

    def _after_fork(self) -> None:
        self._close()  # that ends the connection for this process alone

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._begun.clear()

    def _is_lost(self) -> bool:
        return self._socket is not None and self._socket.has_ended()

    def _connect(self) -> KernelTimedSocket:
        host, port, path = self._address
        if not path:
            return KernelTimedSocket(socket.create_connection((host, port), self.timeout))
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(self.timeout)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        return KernelTimedSocket(connection)

    def _send_and_receive(self, piece: bytes, begun_ns: int, deadline_ns: int) -> bytes | None:
        connection = self._socket
        if connection is not None and begun_ns > self._arrived_ns + RESTED_NS and connection.has_ended():
            self._close()
            connection = None
        try:
            if connection is None:
                connection = self._socket = self._connect()
            if connection.seconds != self.timeout:
                connection.limit(self.timeout)
            sent = connection.send(piece)
            if sent != len(piece):
                connection.send_rest(piece, sent, deadline_ns)
        except BaseException as error:
            self._not_sent(error)
            return None
        if sent >= LONG or self._begun:
            return None
        try:  # the first wait is the kernel's, whose limit began with this request
            return connection.recv(CHUNK)
        except BlockingIOError:
            raise self._late() from None
        except OSError:
            return b""

    def _complete(self, begun: bytes | None, deadline_ns: int) -> Piece:
        if begun is not None:
            self._add(begun)
        return self._receive(deadline_ns)

    def _not_sent(self, error: BaseException) -> None:
        """Raise why a message could not be sent, unless the server may have said so before it closed the connection."""
        if isinstance(error, BrokenPipeError | ConnectionResetError):
            return
        self._close()  # half a message was sent, maybe
        if isinstance(error, TimeoutError | BlockingIOError):
            raise self._late() from None
        if isinstance(error, OSError):
            raise self._no_server(error.strerror or error) from error
        raise error  # Ctrl-C, say

    def _receive(self, deadline_ns: int) -> Piece:
        connection, begun = self._socket, self._begun
        if connection is None:
            raise self._no_server("the connection to it was lost")
        try:
            while unpack(begun, self.max_answer_bytes) is None:
                connection.await_more(deadline_ns)
                self._add(connection.recv(max(missing(begun), CHUNK)))
        except (TimeoutError, BlockingIOError):
            raise self._late() from None
        except OSError:
            self._add(b"")
        except BadRequest as error:
            self._close()
            raise RemoteFailure(f"what {self.endpoint} answers cannot be read: {error}") from error
        size = len(begun) + missing(begun)
        whole = bytes(memoryview(begun)[:size])
        del begun[:size]
        return unpack(whole)  # type: ignore[return-value]

    def _not_read(self) -> None:
        """Close the connection: so does the server, for it cannot tell where the next message begins."""
        self._close()

    def _add(self, data: bytes) -> None:
        if not data:
            self._close()
            raise self._no_server("the connection to it was lost")
        self._begun += data
