"""The client's end of RPC over a plain socket; `socket_front.py` is the other end."""

from __future__ import annotations

import logging
import select
import socket
import struct
from time import perf_counter_ns

from imdb_serving.config import DEFAULT_TIMEOUT
from imdb_serving.errors import BadRequest, RemoteFailure
from imdb_serving.transports.rpc.client import RESTED_NS, MessageClient
from imdb_serving.transports.rpc.endpoints import socket_address
from imdb_serving.transports.rpc.framing import Piece, missing, unpack

log = logging.getLogger(__name__)

CHUNK = 1 << 14


class SocketClient(MessageClient):
    """A client of one RPC server over a plain socket, for use in one thread.

    >>> with SocketClient("socket://127.0.0.1:9293") as client:  # doctest: +SKIP
    ...     client.predict({"words": [8, 233, 52], "label": 0}, ["prediction", "acc"])

    `timeout` is each request's deadline in seconds. After an error the same object can be used again.
    """

    _socket: socket.socket | None = None

    def __init__(self, endpoint: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Take the endpoint; the connection is made with the first request, and kept."""
        super().__init__(endpoint, timeout)
        self._address = socket_address(endpoint)
        self._begun = bytearray()
        self._limit = 0.0

    def close(self) -> None:
        """Close the connection; a request that was not answered is forgotten."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._begun.clear()

    def _connect(self, seconds: float) -> socket.socket:
        host, port, path = self._address
        if path:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(seconds)
            try:
                connection.connect(path)
            except OSError:
                connection.close()
                raise
        else:
            connection = socket.create_connection((host, port), seconds)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._socket = connection
        self._limit = 0.0
        return connection

    def _send_and_receive(self, piece: bytes, begun_ns: int, deadline_ns: int) -> Piece:
        connection = self._socket
        if connection is not None and begun_ns > self._arrived_ns + RESTED_NS:
            connection = self._still_there(connection)
        try:
            if connection is None:
                connection = self._connect(self.timeout)
            if self._limit != self.timeout:
                self._set_limit(connection)
            connection.sendall(piece)
        except (TimeoutError, BlockingIOError):
            self.close()
            raise self._late() from None
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have said why before it closed: what it said is still to be read
        except OSError as error:
            self.close()
            raise self._no_server(error.strerror or error) from error
        except BaseException:  # Ctrl-C, say: half a message was sent, maybe
            self.close()
            raise
        return self._receive(deadline_ns)

    def _still_there(self, connection: socket.socket) -> socket.socket | None:
        """Return the connection, or None when the server has closed it; a late answer is no end."""
        try:
            if self._begun or connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                return connection
        except BlockingIOError:
            return connection
        except OSError:
            log.debug("the connection was reset")
        self.close()
        return None

    def _set_limit(self, connection: socket.socket) -> None:
        """Have the kernel keep the deadline: with a time-out of Python's every call would be two."""
        connection.settimeout(None)
        seconds = struct.pack("ll", int(self.timeout), int(self.timeout % 1 * 1e6) or 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
        self._limit = self.timeout

    def _receive(self, deadline_ns: int) -> Piece:
        connection, begun = self._socket, self._begun
        if connection is None:
            raise self._no_server("the connection to it was lost")
        try:
            if not begun:
                data = connection.recv(CHUNK)
                piece = unpack(data)
                if piece is not None and piece[2] == len(data):
                    return piece
                self._add(data)
            while unpack(begun) is None:
                if not self._poll.poll(max(0.0, (deadline_ns - perf_counter_ns()) / 1e6)):
                    raise self._late()
                self._add(connection.recv(max(missing(begun), CHUNK)))
        except BlockingIOError:
            raise self._late() from None
        except OSError:
            self._add(b"")
        except BadRequest as error:
            self.close()
            raise RemoteFailure(f"{self.endpoint} does not speak this protocol: {error}") from error
        size = len(begun) + missing(begun)
        whole = bytes(memoryview(begun)[:size])
        del begun[:size]
        return unpack(whole)  # type: ignore[return-value]

    def _add(self, data: bytes) -> None:
        if not data:
            self.close()
            raise self._no_server("the connection to it was lost")
        self._begun += data
