"""The RPC server: a pool of workers, a crew of threads, and the front that an endpoint asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from time import monotonic
from typing import Protocol

from imdb_serving.errors import BadRequest, ConfigError, ServerStartError
from imdb_serving.messages import ServerInfo
from imdb_serving.transports.introduction import introduce
from imdb_serving.transports.rpc.curve import ServerKeys
from imdb_serving.transports.rpc.endpoints import Address, check_zeromq, is_socket, socket_address, socket_endpoint
from imdb_serving.transports.rpc.framing import MAX_MESSAGE_BYTES, PROTOCOL
from imdb_serving.transports.rpc.intake import Intake
from imdb_serving.workers.crew import Crew
from imdb_serving.workers.front import Front
from imdb_serving.workers.keeper import Keeper
from imdb_serving.workers.pool import Pool
from imdb_serving.workers.staff import START_SECONDS
from imdb_serving.workers.starting import Starter

DRAIN_SECONDS = 10.0
KEEP_SECONDS = 0.5
LEAVE_SECONDS = 0.01


class RpcFront(Front, Protocol):
    """A front that is bound to an endpoint."""

    endpoint: str

    def is_quiet(self) -> bool:
        """Tell whether every answer has left."""

    def close(self) -> None:
        """Close it."""


def open_front(endpoint: str, intake: Intake, keys: ServerKeys | None = None) -> RpcFront:
    """Bind to an endpoint; raise `ServerStartError` when it cannot be had, `ConfigError` when the keys are none."""
    address = _plain_address(endpoint)
    if address is None:
        from imdb_serving.transports.rpc.zeromq_front import ZmqFront

        return ZmqFront(endpoint, intake, keys)
    if keys is not None:
        raise ConfigError(f"keys are for ZeroMQ: serve at tcp:// or ipc://, not at {endpoint}")
    from imdb_serving.transports.rpc.socket_front import SocketFront
    from imdb_serving.transports.streams.listening import listen, listen_at
    from imdb_serving.workers.janitor import Janitor

    if address.path:
        listener = listen_at(address.path)
        return SocketFront(listener, endpoint, intake, Janitor(address.path).close)
    listener = listen(address.host, address.port)
    return SocketFront(listener, socket_endpoint(*listener.getsockname()[:2]), intake, lambda: None)


def _plain_address(endpoint: str) -> Address | None:
    """Return a plain socket's address, and nothing for an endpoint of ZeroMQ."""
    try:
        if is_socket(endpoint):
            return socket_address(endpoint)
        check_zeromq(endpoint)
    except BadRequest as error:
        raise ServerStartError(str(error)) from error
    return None


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
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        start_timeout: float = START_SECONDS,
        drain_timeout: float = DRAIN_SECONDS,
        keys: ServerKeys | None = None,
        prepare: Callable[[], None] = lambda: None,
        **limits: int,
    ) -> None:
        """Take everything, `limits` for the requests that wait; nothing is started before `run`.

        `prepare` is called before the workers are started, while the server answers already that it is starting.
        """
        self._endpoint = endpoint
        self._pool = pool
        self.info = describe(PROTOCOL.decode(), max_message_bytes)
        self.watch: Callable[[Crew], AbstractContextManager[str]] = lambda _: nullcontext("")
        """Given the crew, what looks at it while the server runs, and where it tells what it sees."""

        self._starter = Starter(self._start)
        self._intake = Intake(self._introduce, max_message_bytes, pool.kind)
        self._prepare, self._start_timeout = prepare, start_timeout
        self._drain_timeout, self._limits, self._keys = drain_timeout, limits, keys
        self._stopping = False
        self._rouse: Callable[[], None] = lambda: None
        self._broken: list[ServerStartError] = []
        pool.on_broken = self._give_up

    def _introduce(self) -> ServerInfo:
        refusal = self._starter.refusal()
        if refusal is not None:
            raise refusal
        return introduce(self.info, self._pool)

    def _start(self) -> None:
        self._prepare()
        self._pool.start(self._start_timeout)

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
        pool = self._pool
        front = open_front(self._endpoint, self._intake, self._keys)
        work, stuck = (pool.ask_here, pool.replace_stuck) if pool.kind == "thread" else (pool.ask_for, None)
        crew = Crew(front, pool.count, work, trusted=stuck is None, **self._limits)
        crew.refusing = self._starter.refusal
        keeper = Keeper(crew, stuck)
        self._rouse = keeper.rouse
        try:
            with self.watch(crew) as metrics:
                self.info = replace(self.info, metrics=metrics)
                crew.start()
                if self._starter.run(keeper.keep, lambda: self._stopping):
                    crew.refusing = None
                    on_ready(front.endpoint)
                    self._serve(keeper, front)
        finally:
            crew.stop()
            if crew.refusing is not None:
                front.receive()  # what came while the threads ended is refused, as all that came since the stop
            pool.stop()
            self._starter.join()
            front.close()
        for error in self._broken:
            raise error

    def _serve(self, keeper: Keeper, front: RpcFront) -> None:
        while not self._stopping:
            keeper.keep(KEEP_SECONDS)
        until = monotonic() + self._drain_timeout
        keeper.drain(self._drain_timeout)
        while not front.is_quiet() and monotonic() < until:
            front.receive()
            keeper.keep(LEAVE_SECONDS)
