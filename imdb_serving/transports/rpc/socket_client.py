"""The client's end of RPC over a plain socket; `socket_front.py` is the other end."""

from __future__ import annotations

import socket

from imdb_serving.config import DEFAULT_TIMEOUT
from imdb_serving.errors import BadRequest, RemoteFailure
from imdb_serving.transports.rpc.client import MessageClient
from imdb_serving.transports.rpc.endpoints import socket_address
from imdb_serving.transports.rpc.framing import Piece, missing, unpack
from imdb_serving.transports.streams.client_socket import LONG, RESTED_NS, KernelTimedSocket

CHUNK = 1 << 14


class SocketClient(MessageClient):
    """A client of one RPC server over a plain socket, for use in one thread.

    >>> with SocketClient("socket://127.0.0.1:9293") as client:  # doctest: +SKIP
    ...     client.predict({"words": [8, 233, 52], "label": 0}, ["prediction", "acc"])

    `timeout` is each request's deadline in seconds. After an error the same object can be used again.
    """

    _socket: KernelTimedSocket | None = None

    def __init__(self, endpoint: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Take the endpoint; the connection is made with the first request, and kept."""
        super().__init__(endpoint, timeout)
        self._address = socket_address(endpoint)
        self._begun = bytearray()

    def close(self) -> None:
        """Close the connection; a request that was not answered is forgotten."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._begun.clear()

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

    def _send_and_receive(self, piece: bytes, begun_ns: int, deadline_ns: int) -> Piece:
        connection = self._socket
        if connection is not None and begun_ns > self._arrived_ns + RESTED_NS and connection.has_ended():
            self.close()
            connection = None
        try:
            if connection is None:
                connection = self._socket = self._connect()
            connection.limit(self.timeout)
            connection.send(piece, deadline_ns)
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
        return self._next(deadline_ns, at_once=len(piece) < LONG)

    def _receive(self, deadline_ns: int) -> Piece:
        return self._next(deadline_ns, at_once=False)

    def _next(self, deadline_ns: int, *, at_once: bool) -> Piece:
        """Return the next message. `at_once` leaves the first wait to the kernel, whose limit begins anew."""
        connection, begun = self._socket, self._begun
        if connection is None:
            raise self._no_server("the connection to it was lost")
        try:
            if not begun:
                if not at_once:
                    connection.await_more(deadline_ns)
                data = connection.recv(CHUNK)
                piece = unpack(data)
                if piece is not None and piece[2] == len(data):
                    return piece
                self._add(data)
            while unpack(begun) is None:
                connection.await_more(deadline_ns)
                self._add(connection.recv(max(missing(begun), CHUNK)))
        except (TimeoutError, BlockingIOError):
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
