"""The RPC server over ZeroMQ: a pool of workers, server threads, and the listener."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from imdb_serving.config import MAX_MESSAGE_BYTES
from imdb_serving.errors import BadRequest, ServerStartError
from imdb_serving.messages import ServerInfo
from imdb_serving.protocol.endpoints import check_zeromq
from imdb_serving.protocol.framing import PROTOCOL
from imdb_serving.server.request_queue import Listener
from imdb_serving.server.rpc_requests import RequestDecoder
from imdb_serving.server.server_threads import ServerThreads
from imdb_serving.server.startup import Starter
from imdb_serving.server.supervisor import START_SECONDS
from imdb_serving.server.watchdog import Watchdog
from imdb_serving.server.worker_pool import WorkerPool, server_info

if TYPE_CHECKING:
    from imdb_serving.server.curve import ServerKeys

DRAIN_SECONDS = 10.0
KEEP_SECONDS = 0.5
LEAVE_SECONDS = 0.01


class RpcListener(Listener, Protocol):
    """A listener that is bound to an endpoint."""

    endpoint: str

    def is_quiet(self) -> bool:
        """Tell whether every answer has left."""

    def close(self) -> None:
        """Close it."""


def open_listener(endpoint: str, decoder: RequestDecoder, keys: ServerKeys | None = None) -> RpcListener:
    """Bind to an endpoint; raise `ServerStartError` when it cannot be had, `ConfigError` when the keys are none."""
    try:
        check_zeromq(endpoint)
    except BadRequest as error:
        raise ServerStartError(str(error)) from error
    from imdb_serving.server.zeromq_listener import ZmqListener

    return ZmqListener(endpoint, decoder, keys)


class RpcServer:
    """Answers RPC requests with the workers of a pool.

    Make it, `run` it in one thread; `stop` may be called from any thread or signal handler. `describe` makes the
    `ServerInfo` from the protocol's name and the message limit.
    """

    def __init__(
        self,
        endpoint: str,
        pool: WorkerPool,
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
        self.watch: Callable[[ServerThreads], AbstractContextManager[str]] = lambda _: nullcontext("")
        """Given the server threads, what looks at it while the server runs, and where it tells what it sees."""

        self._starter = Starter(self._start)
        self._decoder = RequestDecoder(self._introduce, max_message_bytes, pool.kind)
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
        return server_info(self.info, self._pool)

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
        listener = open_listener(self._endpoint, self._decoder, self._keys)
        work, stuck = (pool.call, pool.replace_stuck) if pool.kind == "thread" else (pool.ask_for, None)
        threads = ServerThreads(listener, pool.count, work, trusted=stuck is None, **self._limits)
        threads.refusing = self._starter.refusal
        watchdog = Watchdog(threads, stuck)
        self._rouse = watchdog.rouse
        try:
            with self.watch(threads) as metrics:
                self.info = replace(self.info, metrics=metrics)
                threads.start()
                if self._starter.run(watchdog.keep, lambda: self._stopping):
                    threads.refusing = None
                    on_ready(listener.endpoint)
                    self._serve(watchdog, listener)
        finally:
            threads.stop()
            if threads.refusing is not None:
                listener.receive()  # what came while the threads ended is refused, as all that came since the stop
            pool.stop()
            self._starter.join()
            listener.close()
        for error in self._broken:
            raise error

    def _serve(self, watchdog: Watchdog, listener: RpcListener) -> None:
        while not self._stopping:
            watchdog.keep(KEEP_SECONDS)
        until = monotonic() + self._drain_timeout
        watchdog.drain(self._drain_timeout)
        while not listener.is_quiet() and monotonic() < until:
            listener.receive()
            watchdog.keep(LEAVE_SECONDS)
