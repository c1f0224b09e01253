"""Where RPC's requests come in over plain sockets: messages in one piece, one after another on each connection.

A connection may have several requests under way; their answers go out as they are made, told apart by their ids.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic

from imdb_serving.errors import BadRequest, ServingError
from imdb_serving.transports.rpc import wire
from imdb_serving.transports.rpc.framing import Frame, Piece, missing, unpack
from imdb_serving.transports.rpc.intake import Intake
from imdb_serving.transports.streams.connection import StreamConnection
from imdb_serving.transports.streams.front import StreamFront
from imdb_serving.workers.channel import Frames
from imdb_serving.workers.front import Task

HALF_MESSAGE_SECONDS = 60.0
MAX_UNDER_WAY = 1024
MAX_UNSENT_BYTES = 1 << 20


class SocketConnection(StreamConnection):
    """Bytes to messages."""

    def __init__(self, client: socket.socket, max_message_bytes: int) -> None:
        """Take an accepted socket and the limit on messages."""
        super().__init__(client)
        self.messages: list[tuple[Piece, Frame]] = []
        self.refusal: BadRequest | None = None
        self.taken = self.answered = 0  # the one changes under the front's lock, the other under `_sending`
        self._limit = max_message_bytes
        self._half = bytearray()
        self._missing = 0

    def feed(self, data: bytes) -> None:
        """Cut what has arrived into messages; nothing can be read behind what is none."""
        try:
            if not self._half:
                piece = unpack(data, self._limit)
                if piece is not None and piece[2] == len(data):
                    self.messages.append((piece, data))
                    return
            self.touched = monotonic()
            self._half += data
            self._missing -= len(data)
            if self._missing <= 0:  # else not even a look is worth while
                self._cut()
        except BadRequest as error:
            self.refusal, self.is_settled = error, False
            self._half.clear()

    def _cut(self) -> None:
        while unpack(self._half, self._limit) is not None:
            size = len(self._half) + missing(self._half)
            whole = bytes(memoryview(self._half)[:size])
            del self._half[:size]
            self.messages.append((unpack(whole), whole))  # type: ignore[arg-type]
        self._missing = missing(self._half)

    def answer(self, data: Frame) -> None:
        """Send the answer to a request; see `send`."""
        with self._sending:
            self._send(data)
            self.answered += 1

    @property
    def is_half(self) -> bool:
        """True while a message has not arrived whole."""
        return bool(self._half)

    @property
    def wants_to_read(self) -> bool:
        """False while the client does not read its answers, or asks more than anyone could answer."""
        return self.taken - self.answered < MAX_UNDER_WAY and len(self._unsent) < MAX_UNSENT_BYTES

    @property
    def is_idle(self) -> bool:
        """True when there is nothing to answer and nothing to send."""
        return not (self.taken != self.answered or self._unsent or self.messages)


class SocketFront(StreamFront[SocketConnection]):
    """All connections of a server."""

    def __init__(self, listener: socket.socket, endpoint: str, intake: Intake, on_close: Callable[[], None]) -> None:
        """Take the listening socket, where clients find it, and what is to be done once it is closed."""
        super().__init__(listener)
        self.endpoint = endpoint
        self._intake, self._on_close = intake, on_close

    def _open(self, client: socket.socket) -> SocketConnection:
        return SocketConnection(client, self._intake.info.max_message_bytes)

    def _is_stale(self, connection: SocketConnection, idle_seconds: float) -> bool:
        return connection.is_half and idle_seconds > HALF_MESSAGE_SECONDS

    def _advance(self, connection: SocketConnection) -> None:
        if connection.messages:
            messages, connection.messages = connection.messages, []
            for (header, body, _), whole in messages:
                answer = self._intake.take(header, body, (whole,), connection, self.submit)
                if answer is None:
                    connection.taken += 1
                else:
                    connection.send(answer[0])
            if connection.is_settled and connection.wants_to_read:
                return
        if connection.refusal is not None and not connection.lingering:
            connection.send(wire.encode_failure(connection.refusal, None, one_piece=True)[0])
            connection.lingering, connection.touched = True, monotonic()
        if connection.lingering and connection.is_idle:
            connection.end_writing()
        self._settle(connection)

    def answer(self, task: Task, outcome: Frames) -> None:
        """Send an answer; see `Front`."""
        connection: SocketConnection = task.route
        connection.answer(outcome[0])
        if not connection.is_settled:
            with self._guard:
                if self._knows(connection):
                    self._advance(connection)

    def fail(self, task: Task, error: ServingError) -> None:
        """Send a failure."""
        self.answer(task, wire.encode_failure(error, task.request_id, one_piece=True))

    def close(self) -> None:
        """Close everything."""
        super().close()
        self._on_close()
