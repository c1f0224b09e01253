"""A server without a socket, for tests and for trying a pipeline: messages come and go within the process.

All else is as over ZeroMQ: the queue, workers that are threads, the supervisor with its limits and deadlines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, NamedTuple

from imdb_serving.config import MAX_MESSAGE_BYTES
from imdb_serving.errors import BadRequest
from imdb_serving.messages import Handler, ServerInfo
from imdb_serving.protocol import wire
from imdb_serving.protocol.framing import PROTOCOL, Frame, unpack_whole
from imdb_serving.server.listener import Supervisor
from imdb_serving.server.readiness import Waker
from imdb_serving.server.request_queue import Task
from imdb_serving.server.rpc.requests import RequestDecoder
from imdb_serving.server.rpc.service import RpcService
from imdb_serving.server.rpc.shared_listener import SharedListener
from imdb_serving.server.server import Server
from imdb_serving.server.workers.units import units_for

RECEIVED_A_TURN = 64


class Route(NamedTuple):
    """Who asks, and where the answer goes."""

    client: Hashable
    answer: Future[bytes]


class MemoryListener(SharedListener):
    """Takes messages of callers in this process."""

    endpoint = "memory"

    def __init__(self, decoder: RequestDecoder, supervisor: Supervisor) -> None:
        """Take what makes tasks of messages, and whom this works for."""
        super().__init__(decoder, supervisor, direct=True)
        self._arrived: deque[tuple[Route, bytes]] = deque()
        self._waker = Waker()
        self.descriptor = self._waker.descriptor

    def arrive(self, route: Route, message: bytes) -> None:
        """Take a message; from any thread."""
        self._arrived.append((route, message))
        self._waker.wake()

    def _receive(self) -> None:
        self._waker.clear()
        for _ in range(RECEIVED_A_TURN):
            if not self._arrived:
                self.has_more = False
                return
            route, message = self._arrived.popleft()
            piece = unpack_whole(message)
            if piece is None:
                answer: bytes | None = wire.encode_failure(BadRequest("this is no message"), None)
            else:
                answer = self._decoder.take(piece, message, route, self._supervisor.submit)
            if answer is not None:
                self._send(route, answer)
        self.has_more = True

    def _send(self, route: Route, piece: Frame) -> None:
        if route.answer.set_running_or_notify_cancel():
            route.answer.set_result(bytes(piece))

    def owner(self, task: Task) -> Hashable:
        client: Hashable = task.route.client
        return client

    def client(self, task: Task) -> str:
        return str(task.route.client)

    def close(self) -> None:
        """Answer what is answered, and take no more."""
        self.glance()
        self._waker.close()


class MemoryService(RpcService):
    """RPC in memory."""

    def __init__(self, max_message_bytes: int) -> None:
        super().__init__("", max_message_bytes, None, local=True)
        self.listener: MemoryListener

    def listen(self, supervisor: Supervisor) -> MemoryListener:
        """Take messages from now on."""
        self.listener = MemoryListener(self.decoder(supervisor), supervisor)
        return self.listener


class MemoryServer(Server):
    """Make it, `run` it in one thread, `ask` from others, `stop` it."""

    def __init__(
        self,
        make_handler: Callable[[], Handler],
        workers: int,
        describe: Callable[[str, int], ServerInfo],
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        **options: Any,
    ) -> None:
        """Take what makes each worker's handler, and how many workers there are."""
        self._memory = MemoryService(max_message_bytes)
        units, info = units_for(workers, 0, (), describe(PROTOCOL.decode(), max_message_bytes))
        super().__init__(self._memory, units, info, **options)
        self.set_handler(make_handler)

    def ask(self, message: bytes, client: Hashable = "") -> Future[bytes]:
        """Have a message in one piece answered; once the server runs."""
        answer: Future[bytes] = Future()
        self._memory.listener.arrive(Route(client, answer), message)
        return answer
