"""The listener for RPC over ZeroMQ: one ROUTER socket, used under one lock.

A message may come in several frames: it is joined to one piece here, and its answer split.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import zmq

from imdb_serving.errors import BadRequest, ServerStartError, ServingError
from imdb_serving.processes import Cleanup
from imdb_serving.protocol import wire
from imdb_serving.protocol.endpoints import ipc_path
from imdb_serving.protocol.framing import MAX_FRAMES, SMALL_BYTES, Frame, unpack_whole
from imdb_serving.server.request_queue import Task
from imdb_serving.server.rpc.requests import RequestDecoder
from imdb_serving.server.rpc.shared_listener import SharedListener
from imdb_serving.server.rpc.zeromq_limits import MessageLimit
from imdb_serving.server.startup import advice, unix_path_lock

if TYPE_CHECKING:
    from imdb_serving.server.listener import Supervisor
    from imdb_serving.server.rpc.curve import Authenticator, ServerKeys

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


class Route(msgspec.Struct, frozen=True, gc=False):
    """The way back: the frames before an answer, and whether it goes in one piece, as its question came."""

    to: tuple[bytes, ...]
    one_piece: bool


class ZmqListener(SharedListener):
    """The ROUTER socket. Every call on it is made under `_guard`, for ZeroMQ's sockets are no threads' playground."""

    def __init__(
        self,
        endpoint: str,
        decoder: RequestDecoder,
        supervisor: Supervisor,
        keys: ServerKeys | None = None,
        *,
        direct: bool = False,
    ) -> None:
        """Bind; raise `ServerStartError` when the endpoint cannot be had, `ConfigError` when the keys are none.

        With `direct` the workers receive, and answers leave when they do.
        """
        super().__init__(decoder, supervisor, direct=direct)
        self._context = zmq.Context()
        self._router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.MAXMSGSIZE, max(decoder.max_message_bytes, SMALL_BYTES))
        self._send_part = super(zmq.Socket, self._router).send  # without pyzmq's detour in Python for routing ids
        self._limit = MessageLimit(self._router, decoder.max_message_bytes)
        self.descriptor: int = self._router.fileno()
        self._cleanup: Cleanup | None = None
        self._authenticator: Authenticator | None = None
        try:
            if keys is not None:
                from imdb_serving.server.rpc.curve import guard_server  # noqa: PLC0415 - loads asyncio

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

    def _receive(self) -> None:
        """Do so with the lock held. ZeroMQ's descriptor tells of arrivals once, so read until there are none."""
        router, known = self._router, self._limit.known
        for _ in range(RECEIVED_A_TURN):
            if not router.get(EVENTS) & POLLIN:  # type: ignore[operator]
                self.has_more = False
                return
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
            route = Route((first,), one_piece=True)
            answer = self._decoder.take(piece, parts[0], route, self._supervisor.submit)
            if answer is not None:
                self._send(route, answer)
        self.has_more = True

    def _accept(self, client: bytes, message: list[bytes]) -> None:
        self._limit.saw(client)
        to: tuple[bytes, ...] = (client,)
        if len(message) > 1 and not message[0]:
            # A REQ socket puts an empty frame before its message and expects one before the answer.
            to = (client, message.pop(0))
        route = Route(to, one_piece=wire.is_one_piece(message))
        try:
            whole = wire.join(message, self._decoder.max_message_bytes)
        except BadRequest as error:
            self.counts[error.code] += 1
            answer: bytes | None = wire.encode_failure(error, wire.id_of(message))
        else:
            answer = self._decoder.take(unpack_whole(whole), whole, route, self._supervisor.submit)  # type: ignore[arg-type]
        if answer is not None:
            self._send(route, answer)

    def client(self, task: Task) -> str:
        return self.owner(task).hex()

    def owner(self, task: Task) -> bytes:
        return task.route.to[0]  # type: ignore[no-any-return]

    def look_after(self) -> None:
        """Forget clients that have gone, cut those that send too much, and send what is left."""
        if self._limit.is_due():
            with self._guard:
                gone = self._limit.check()
            for client in gone:
                self._supervisor.abandon(client)
        super().look_after()

    def _send(self, route: Route, piece: Frame) -> None:
        frames = (piece,) if route.one_piece else wire.split(piece)
        try:
            for part in route.to:
                self._send_part(part, MORE)
            for frame in frames[:-1]:
                self._send_part(frame, MORE)
            self._send_part(frames[-1], NOBLOCK)
        except zmq.ZMQError as error:
            log.warning("an answer could not be delivered: %s", error)

    def close(self) -> None:
        """Send what is to be sent, and close it."""
        self.glance()
        with self._guard:
            self._limit.close()
            self._router.close(linger=LINGER_MS)
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()
        if self._cleanup is not None:
            self._cleanup.close()
