"""The listener for RPC over ZeroMQ: one ROUTER socket, which all server threads share under one lock."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from imdb_serving.errors import BadRequest, ServerStartError, ServingError
from imdb_serving.processes import Cleanup
from imdb_serving.protocol import wire
from imdb_serving.protocol.endpoints import ipc_path
from imdb_serving.protocol.framing import MAX_FRAMES, SMALL_BYTES, Frame, unpack_whole
from imdb_serving.server.channel import Frames
from imdb_serving.server.readiness import Waker
from imdb_serving.server.request_queue import Task
from imdb_serving.server.rpc_requests import RequestDecoder
from imdb_serving.server.startup import advice, unix_path_lock
from imdb_serving.server.zeromq_limits import MessageLimit

if TYPE_CHECKING:
    from imdb_serving.server.curve import Authenticator, ServerKeys

log = logging.getLogger(__name__)

RECEIVED_A_TURN = 64
MAX_PARTS = MAX_FRAMES + 1
"""Of a message, with a REQ socket's delimiter."""

LINGER_MS = 1000

# As plain numbers: pyzmq's enumerations cost more than the calls they are for.
NOBLOCK, SNDMORE, EVENTS, RCVMORE, POLLIN = (
    int(value) for value in (zmq.NOBLOCK, zmq.SNDMORE, zmq.EVENTS, zmq.RCVMORE, zmq.POLLIN)
)

MORE = SNDMORE | NOBLOCK

Route = tuple[bytes, ...]


class ZmqListener:
    """The ROUTER socket. Every call on it is made under `_guard`, for ZeroMQ's sockets are no threads' playground."""

    submit: Callable[[Task], None]
    abandon: Callable[[Hashable], None]
    set_back: Callable[[Hashable], None]

    def __init__(self, endpoint: str, decoder: RequestDecoder, keys: ServerKeys | None = None) -> None:
        """Bind; raise `ServerStartError` when the endpoint cannot be had, `ConfigError` when the keys are none."""
        self._context = zmq.Context()
        self._router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.MAXMSGSIZE, max(decoder.max_message_bytes, SMALL_BYTES))
        self._send_part = super(zmq.Socket, self._router).send  # without pyzmq's detour in Python for routing ids
        self._limit = MessageLimit(self._router, decoder.max_message_bytes)
        self._decoder, self.counts = decoder, decoder.counts
        self._guard = threading.Lock()
        self._more = False
        self._outbox: deque[tuple[Route, Frames]] = deque()
        self._asked = False
        self._waker = Waker(self._router.fileno())
        self._cleanup: Cleanup | None = None
        self._authenticator: Authenticator | None = None
        try:
            if keys is not None:
                from imdb_serving.server.curve import guard_server  # noqa: PLC0415 - loads asyncio

                self._authenticator = guard_server(self._router, self._context, keys)
            self._bind(endpoint)
        except ServingError:
            self.close()
            raise
        except zmq.ZMQError as error:
            self.close()
            raise ServerStartError(f"cannot listen on {endpoint}: {error}; {advice(error)}") from error

    def _bind(self, endpoint: str) -> None:
        self._router.ipv6 = "[" in endpoint
        path = ipc_path(endpoint)
        with unix_path_lock(path) if path else nullcontext():  # ZeroMQ would take the path from whoever listens there
            self._router.bind(endpoint)
        self.endpoint: str = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        if bound := ipc_path(self.endpoint):
            self._cleanup = Cleanup(bound, "" if path else str(Path(bound).parent))

    def receive(self) -> bool:
        with self._guard:
            more = self._receive()
        if self._asked:
            self.glance()
        return more

    def glance(self) -> None:
        """Send what is to be sent and take in what has arrived, unless another thread is at it; see `Listener`.

        Nobody waits for the lock, which would cost more than what is done under it: whoever had it looks, once it is
        given back, whether somebody asked meanwhile.
        """
        self._asked = True
        while self._asked and self._guard.acquire(blocking=False):
            try:
                self._asked = False
                while self._outbox:
                    self._send(*self._outbox.popleft())
                self._receive()
            finally:
                self._guard.release()

    def _receive(self) -> bool:
        """Do so with the lock held. ZeroMQ's descriptor tells of arrivals once, so read until there are none."""
        router, known = self._router, self._limit.known
        for _ in range(RECEIVED_A_TURN):
            if not router.get(EVENTS) & POLLIN:  # type: ignore[operator]
                self._more = False
                return False
            first = router.recv(NOBLOCK)
            if first in known:
                parts = [router.recv(NOBLOCK)]
            else:
                parts = [self._limit.meet(first, router.recv(NOBLOCK, copy=False))]
            while router.get(RCVMORE):
                part = router.recv(NOBLOCK)
                if len(parts) <= MAX_PARTS:  # one more than is allowed is enough to refuse the message
                    parts.append(part)
            piece = unpack_whole(parts[0]) if len(parts) == 1 else None
            if piece is None:
                self._accept(first, parts)
                continue
            # In one piece and frame, as our clients send: all that follows is for others.
            self._limit.saw(first)
            route: Route = (first,)
            answer = self._decoder.take(piece[0], piece[1], parts, (route, True), self.submit)
            if answer is not None:
                self._send(route, answer)
        self._more = True
        return True

    def _accept(self, client: bytes, message: list[bytes]) -> None:
        self._limit.saw(client)
        route: Route = (client,)
        if len(message) > 1 and not message[0]:
            # A REQ socket puts an empty frame before its message and expects one before the answer.
            route = (client, message.pop(0))
        try:
            header, tensors, one_piece = wire.open_frames(message)
        except BadRequest as error:
            self.counts[error.code] += 1
            answer = wire.encode_failure(error, wire.id_of(message), one_piece=wire.is_one_piece(message))
        else:
            answer = self._decoder.take(header, tensors, message, (route, one_piece), self.submit)
        if answer is not None:
            self._send(route, answer)

    def client(self, task: Task) -> str:
        identity: bytes = task.route[0][0]
        return identity.hex()

    def owner(self, task: Task) -> bytes:
        return task.route[0][0]  # type: ignore[no-any-return]

    def look_after(self) -> None:
        with self._guard:
            gone = self._limit.check()
        for client in gone:
            self.abandon(client)
        if self._asked:
            self.glance()

    def wait(self) -> None:
        if not self._more:
            self._waker.wait()

    def wake(self) -> None:
        self._waker.wake()

    def answer(self, task: Task, outcome: Frames) -> None:
        self._outbox.append((task.route[0], outcome))
        self.glance()

    def answer_all(self, held: deque[tuple[Task, Frames]]) -> None:
        while held:
            with suppress(IndexError):  # another thread may take the last one meanwhile
                task, outcome = held.popleft()
                self._outbox.append((task.route[0], outcome))
        self.glance()

    def fail(self, task: Task, error: ServingError) -> None:
        self.answer(task, wire.encode_failure(error, task.request_id, one_piece=task.route[1]))

    def _send(self, route: Route, frames: Sequence[Frame]) -> None:
        try:
            for part in route:
                self._send_part(part, MORE)
            for frame in frames[:-1]:
                self._send_part(frame, MORE)
            self._send_part(frames[-1], NOBLOCK)
        except zmq.ZMQError as error:
            log.warning("an answer could not be delivered: %s", error)

    def is_quiet(self) -> bool:
        return not self._outbox

    def close(self) -> None:
        self.glance()
        with self._guard:
            self._limit.close()
            self._router.close(linger=LINGER_MS)
        self._waker.close()
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()
        if self._cleanup is not None:
            self._cleanup.close()
