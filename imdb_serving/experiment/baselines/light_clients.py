"""Clients that cost little: they send messages that were made before, and look closely at few of the answers.

Where server and clients share cores, ordinary clients take most of the time. These show more of what the server can do.
"""

from __future__ import annotations

import socket
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import zmq

from imdb_serving.clients.base import Client
from imdb_serving.clients.sockets import KernelTimedSocket
from imdb_serving.errors import RemoteFailure, ServerUnavailable, ServingError
from imdb_serving.load.workload import ReviewWorkload
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.protocol import wire
from imdb_serving.protocol.endpoints import is_socket, socket_address
from imdb_serving.protocol.framing import missing, unpack_whole
from imdb_serving.timing import Stage

DIFFERENT = 64
"""How many different messages a client has at most."""

CHECK_EVERY = 16
"""One of so many answers is read; the others are only counted."""

CHUNK = 1 << 16
TIMEOUT_MS = 30_000.0


@dataclass(frozen=True, slots=True)
class PreparedWorkload:
    """`count` requests, over and over the same messages."""

    messages: Sequence[bytes]
    count: int

    @classmethod
    def of(cls, reviews: ReviewWorkload) -> PreparedWorkload:
        """Return as many requests as there are reviews, of the first of them."""
        some = map(reviews.prepare, range(min(DIFFERENT, len(reviews))))
        return cls([wire.encode_request(request, 1, TIMEOUT_MS) for request in some], len(reviews))

    def __len__(self) -> int:
        return self.count

    def prepare(self, position: int) -> Any:
        """Return a message, which is all that a `LightClient` needs of a request."""
        return self.messages[position % len(self.messages)]

    def finish(self, _position: int, _reply: Reply) -> Any:
        """Count one answer, which was not read."""
        return (None,)


class LightClient(Client):
    """A client of one RPC server, for the requests of a `PreparedWorkload`. Its one stage is the whole request."""

    timeout = TIMEOUT_MS / 1000

    def __init__(self, endpoint: str) -> None:
        """Take the endpoint; a subclass connects."""
        self._endpoint, self._calls = endpoint, 0

    @abstractmethod
    def ask(self, message: bytes) -> bytes:
        """Send a message and return all of the answer."""

    def call(self, request: Request) -> Reply:
        begun = perf_counter_ns()
        answer = self.ask(request)  # type: ignore[arg-type]
        ended = perf_counter_ns()
        self._calls += 1
        if not self._calls % CHECK_EVERY:
            self._read(answer)
        return Reply({}, [Stage("exchange", begun, ended)])

    def hello(self) -> ServerInfo:
        info = self._read(self.ask(wire.encode_hello(1)))
        if not isinstance(info, ServerInfo):
            raise RemoteFailure(f"{self._endpoint} answered hello with something else")
        return info

    def _read(self, answer: bytes) -> wire.Answered | ServerInfo:
        piece = unpack_whole(answer)
        if piece is None:
            raise RemoteFailure(f"what {self._endpoint} answers cannot be read")
        _, found = wire.decode_answer(piece[0], piece[1])
        if isinstance(found, ServingError):
            raise found
        return found


class LightSocketClient(LightClient):
    """Over a plain TCP socket."""

    def __init__(self, endpoint: str) -> None:
        """Connect."""
        super().__init__(endpoint)
        host, port, _ = socket_address(endpoint)
        try:
            self._socket = KernelTimedSocket(socket.create_connection((host, port), self.timeout))
        except OSError as error:
            raise ServerUnavailable(f"no server answers at {endpoint}: {error}") from error
        self._socket.limit(self.timeout)

    def ask(self, message: bytes) -> bytes:
        try:
            self._socket.connection.sendall(message)
            answer = self._socket.recv(CHUNK)
            while (left := missing(answer)) > 0:
                answer += (more := self._socket.recv(left))
                if not more:
                    raise ConnectionResetError("it has closed the connection")
        except OSError as error:
            raise ServerUnavailable(f"{self._endpoint} does not answer: {error}") from error
        return answer

    def close(self) -> None:
        self._socket.close()


class LightZmqClient(LightClient):
    """Over ZeroMQ."""

    def __init__(self, endpoint: str) -> None:
        """Connect."""
        super().__init__(endpoint)
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.rcvtimeo = int(TIMEOUT_MS)
        self._socket.connect(endpoint)

    def ask(self, message: bytes) -> bytes:
        try:
            self._socket.send(message)
            return self._socket.recv()
        except zmq.ZMQError as error:
            raise ServerUnavailable(f"{self._endpoint} does not answer: {error}") from error

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def light_client(endpoint: str) -> LightClient:
    """Return a connected client."""
    return LightSocketClient(endpoint) if is_socket(endpoint) else LightZmqClient(endpoint)
