"""The listener for RPC over plain sockets: messages in one piece, one after another on each connection.

A connection may have several requests in progress; answers are sent as they are made, matched by id.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from time import monotonic

from imdb_serving.errors import BadRequest, ServingError
from imdb_serving.protocol import wire
from imdb_serving.protocol.framing import Frame, Piece, missing, unpack
from imdb_serving.server.connection import StreamConnection
from imdb_serving.server.lending import LendingListener
from imdb_serving.server.listener import Supervisor
from imdb_serving.server.request_queue import Task
from imdb_serving.server.rpc.requests import RequestDecoder

MESSAGE_BYTES = 512
"""Memory that a message takes beside its bytes, about."""

MAX_UNDER_WAY = 256
"""Of one connection: enough for all workers of any machine, and too few to fill the queue, which is for all."""

MAX_UNSENT_BYTES = 1 << 20


class SocketConnection(StreamConnection):
    """Bytes to messages."""

    def __init__(self, client: socket.socket, max_message_bytes: int) -> None:
        """Take an accepted socket and the limit on messages."""
        super().__init__(client)
        self.messages: deque[tuple[Piece, Frame]] = deque()
        self.refusal: ServingError | None = None
        self.taken = 0
        self.half = bytearray()
        self._limit = max_message_bytes
        self._missing = 0

    def feed(self, data: bytes) -> None:
        """Cut what has arrived into messages; nothing can be read behind what is none."""
        self.touched = monotonic()
        before = len(self.messages)
        try:
            self.half += data
            self._missing -= len(data)
            if self._missing <= 0:  # else not even a look is worth while
                self._cut()
        except BadRequest as error:
            self.refuse(error)
        self.time_begun_message(restart=len(self.messages) != before)
        self.is_heavy = True

    @property
    def begun_bytes(self) -> int:
        return len(self.half)

    @property
    def is_between_messages(self) -> bool:
        return not self.half

    @property
    def held_bytes(self) -> int:
        waiting = sum(len(whole) + MESSAGE_BYTES for _, whole in self.messages)
        return len(self.half) + waiting + len(self._unsent)

    def refuse(self, error: ServingError) -> None:
        self.refusal, self.is_settled = error, False
        self.half.clear()
        if not isinstance(error, BadRequest):  # else what came before it is sound, and still answered
            self.messages.clear()
        self.begun = 0.0

    def _cut(self) -> None:
        while unpack(self.half, self._limit) is not None:
            size = len(self.half) + missing(self.half)
            whole = bytes(memoryview(self.half)[:size])
            del self.half[:size]
            self.messages.append((unpack(whole), whole))  # type: ignore[arg-type]
        self._missing = missing(self.half)

    @property
    def has_room(self) -> bool:
        """False while as many of its requests are under way as one connection may have."""
        return self.taken - self.answered < MAX_UNDER_WAY

    @property
    def wants_to_read(self) -> bool:
        return self.has_room and len(self._unsent) < MAX_UNSENT_BYTES

    @property
    def is_idle(self) -> bool:
        return not (self.taken != self.answered or self._unsent or self.messages)


class SocketListener(LendingListener[SocketConnection]):
    """All connections of a server."""

    def __init__(
        self,
        listening: socket.socket,
        endpoint: str,
        decoder: RequestDecoder,
        on_close: Callable[[], None],
        supervisor: Supervisor,
    ) -> None:
        """Take the listening socket, where clients find it, and what is to be done once it is closed."""
        super().__init__(listening, supervisor)
        self.endpoint = endpoint
        self._decoder, self._on_close = decoder, on_close
        self.counts = decoder.counts
        self._max_bytes = decoder.max_message_bytes

    def _connect(self, client: socket.socket) -> SocketConnection:
        return SocketConnection(client, self._max_bytes)

    def _advance(self, connection: SocketConnection) -> None:
        while True:
            self._take_messages(connection)
            if connection.is_settled and connection.wants_to_read and not connection.messages:
                return
            if connection.refusal is not None and not (connection.lingering or connection.messages):
                self.counts[connection.refusal.code] += 1
                connection.send(wire.encode_failure(connection.refusal, None))
                connection.lingering, connection.touched = True, monotonic()
            if connection.lingering and connection.is_idle:
                connection.end_writing()
            self._settle(connection)
            if not connection.messages or not connection.has_room:
                return  # else it was answered meanwhile by one who took it for settled

    def _take_messages(self, connection: SocketConnection) -> None:
        if connection.closed:
            connection.messages.clear()
        while connection.messages and connection.has_room:
            piece, whole = connection.messages.popleft()
            answer = self._decoder.take(piece, whole, connection, self._supervisor.submit)
            if answer is None:
                connection.taken += 1
            else:
                connection.send(answer)

    def _reply(self, connection: SocketConnection, data: Frame) -> None:
        connection.send(data, 1)

    def fail(self, task: Task, error: ServingError) -> None:
        self.answer(task, wire.encode_failure(error, task.request_id))

    def close(self) -> None:
        super().close()
        self._on_close()
