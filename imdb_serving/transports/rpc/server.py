"""The server's end of RPC over ZeroMQ: one ROUTER socket, which all threads of the crew share under one lock."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter_ns

import zmq

from imdb_serving.errors import ServerStartError, ServingError
from imdb_serving.messages import ServerInfo
from imdb_serving.transports.rpc import wire
from imdb_serving.transports.rpc.flood import FloodGuard
from imdb_serving.workers.bell import Bell
from imdb_serving.workers.channel import Frames
from imdb_serving.workers.crew import Crew
from imdb_serving.workers.front import Task
from imdb_serving.workers.pool import START_SECONDS, Pool

log = logging.getLogger(__name__)

RECEIVED_A_TURN = 64
DRAIN_SECONDS = 10.0
KEEP_SECONDS = 0.5

Route = tuple[bytes, ...]


class ZmqFront:
    """The ROUTER socket. Every call on it is made under `_guard`, for ZeroMQ's sockets are no threads' playground."""

    submit: Callable[[Task], None]

    def __init__(self, router: zmq.Socket[bytes], info: ServerInfo, flood: FloodGuard) -> None:
        """Take the bound socket with its guard, and what the server says of itself."""
        self._router, self._info, self._flood = router, info, flood
        self._guard = threading.Lock()
        self._more = False
        self._bell = Bell(router.fileno())

    def receive(self) -> bool:
        """Take in what has arrived; see `Front`."""
        with self._guard:
            return self._receive()

    def _receive(self) -> bool:
        """Do so with the lock held. ZeroMQ's descriptor tells of arrivals once, so read until there are none."""
        for _ in range(RECEIVED_A_TURN):
            if not _events(self._router) & zmq.POLLIN:
                self._more = False
                return False
            if self._flood.has_strangers:
                client = self._flood.meet(self._router.recv(zmq.NOBLOCK, copy=False))
                self._accept([client, *self._router.recv_multipart(zmq.NOBLOCK)])
            else:
                self._accept(self._router.recv_multipart(zmq.NOBLOCK))
        self._more = True
        return True

    def _accept(self, parts: list[bytes]) -> None:
        """Submit a request, answer `hello`, refuse what is malformed."""
        received_ns = perf_counter_ns()
        # A REQ socket puts an empty frame before its message and expects one before the answer.
        start = 2 if len(parts) > 1 and not parts[1] else 1
        route, frames = tuple(parts[:start]), parts[start:]
        self._flood.saw(parts[0])
        try:
            head = wire.read_head(frames, self._info.max_message_bytes)
            if head.kind == wire.HELLO:
                self._send(route, wire.encode_info(self._info, head.id))
                return
            self.submit(Task(route, head.id, received_ns, monotonic() + head.deadline_ms / 1000, frames))
        except ServingError as error:
            self._send(route, wire.encode_failure(error, wire.read_id(frames)))

    def look_after(self) -> None:
        """Cut connections that send without end; see `Front`."""
        with self._guard:
            self._flood.check()

    def wait(self) -> None:
        """Wait for arrivals; see `Front`."""
        if not self._more:
            self._bell.wait()

    def wake(self) -> None:
        """Have `wait` return."""
        self._bell.ring()

    def answer(self, task: Task, outcome: Frames) -> None:
        """Send an answer, then receive; see `Front`."""
        with self._guard:
            self._send(task.route, outcome)
            self._receive()

    def fail(self, task: Task, error: ServingError) -> None:
        """Send a failure."""
        self.answer(task, wire.encode_failure(error, task.request_id))

    def _send(self, route: Route, frames: Sequence[wire.Frame]) -> None:
        try:
            self._router.send_multipart([*route, *frames], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.warning("an answer could not be delivered: %s", error)

    def close(self) -> None:
        """Close the socket, once what was answered has had a second to leave."""
        with self._guard:
            self._flood.close()
            self._router.close(linger=1000)
        self._bell.close()


def _events(router: zmq.Socket[bytes]) -> int:
    events: int = router.getsockopt(zmq.EVENTS)  # type: ignore[assignment]
    return events


class RpcServer:
    """Answers RPC requests with the workers of a pool.

    Make it, `run` it in one thread; `stop` may be called from any thread or signal handler. `describe` makes the
    `ServerInfo` from the protocol's name and the message limit.
    """

    def __init__(
        self,
        endpoint: str,
        pool: Pool,
        describe: Callable[[str, int], ServerInfo],
        *,
        max_message_bytes: int = wire.MAX_MESSAGE_BYTES,
        start_timeout: float = START_SECONDS,
        drain_timeout: float = DRAIN_SECONDS,
    ) -> None:
        """Take everything; nothing is started before `run`."""
        self._endpoint = endpoint
        self._pool = pool
        self._info = describe(wire.PROTOCOL.decode(), max_message_bytes)
        self._start_timeout = start_timeout
        self._drain_timeout = drain_timeout
        self._stopping = False
        self._rouse: Callable[[], None] = lambda: None
        self._broken: list[ServerStartError] = []
        pool.on_broken = self._give_up

    def stop(self) -> None:
        """Ask `run` to answer what has arrived, then return."""
        self._stopping = True
        self._rouse()

    def _give_up(self, error: ServerStartError) -> None:
        self._broken.append(error)
        self.stop()

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve until `stop`; `on_ready` is called once with the bound endpoint.

        Raises `ServerStartError` when the endpoint cannot be bound, workers cannot start, or none is left.
        """
        with zmq.Context() as context:
            router, flood = self._bind(context)
            front = ZmqFront(router, self._info, flood)
            pool = self._pool
            stuck = pool.replace_stuck if pool.kind == "thread" else None
            crew = Crew(front, pool.count, lambda task: pool.ask(task.received_ns, task.frames, task.deadline), stuck)
            self._rouse = crew.rouse
            try:
                self._pool.start(self._start_timeout)
                if not self._stopping:
                    crew.start()
                    on_ready(router.getsockopt_string(zmq.LAST_ENDPOINT))
                    self._serve(crew)
            finally:
                crew.stop()
                self._pool.stop()
                front.close()
        for error in self._broken:
            raise error

    def _serve(self, crew: Crew) -> None:
        while not self._stopping:
            crew.keep(KEEP_SECONDS)
        crew.drain(self._drain_timeout)

    def _bind(self, context: zmq.Context[zmq.Socket[bytes]]) -> tuple[zmq.Socket[bytes], FloodGuard]:
        router = context.socket(zmq.ROUTER)
        router.setsockopt(zmq.MAXMSGSIZE, self._info.max_message_bytes)
        flood = FloodGuard(router, self._info.max_message_bytes)
        try:
            router.bind(self._endpoint)
        except zmq.ZMQError as error:
            flood.close()
            router.close()
            raise ServerStartError(f"cannot listen on {self._endpoint}: {error}; choose another port") from error
        return router, flood
