"""What the tests of faults share: clients that ask without end, and what became of each request."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import http_kit as http
import numpy as np
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.errors import ServingError
from imdb_serving.messages import Handler, Reply, Request, ServerInfo
from imdb_serving.server.rpc.service import rpc_server
from imdb_serving.server_process import ServerProcess
from imdb_serving.timing import Timeline

MODES = ["rpc", "socket", "flask"]


def some(cases: Sequence[Any], short: Sequence[Any]) -> list[Any]:
    """All cases, those not in `short` for the long form of the tests."""
    return [case if case in short else pytest.param(*_tuple(case), marks=pytest.mark.slow) for case in cases]


def _tuple(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


def simulated(mode: str, milliseconds: float, workers: int, kind: str = "process", *more: str) -> ServerProcess:
    """A server of a mode whose workers sleep."""
    return ServerProcess.of_mode(
        mode,
        ["--engine", "simulated", "--service-time-ms", str(milliseconds), "--server-threads", str(workers),
         "--worker-kind", kind, *more],
    )  # fmt: skip


def half(request: Request, timeline: Timeline) -> Reply:
    """A handler that knows nothing."""
    with timeline.stage("op0"):
        return Reply({"prediction": np.full((request.samples, 2), 0.5, np.float32)}, timeline.stages)


@contextmanager
def in_process(mode: str, handler: Handler = half, **limits: Any) -> Iterator[str]:
    """A server in this process, with one worker that is a thread; its endpoint."""
    info = ServerInfo("", "0", "test", "", 1, "thread", (), (), 16 << 20, os.getpid())
    if mode == "flask":
        with http.own_server(handler, **limits) as server:
            yield server.url
        return
    at = {carrier.mode: carrier for carrier in kit.CARRIERS}[mode].endpoint()
    served = rpc_server(at, lambda: handler, 1, 0, lambda *_: info, **limits)
    ready: queue.Queue[str] = queue.Queue()
    runner = threading.Thread(target=served.run, args=(ready.put,))
    runner.start()
    try:
        yield ready.get(timeout=20)
    finally:
        served.stop()
        runner.join(20)


class ThreadedClients:
    """Clients that ask one thing after another, and how each of their requests ended."""

    def __init__(self, endpoint: str, clients: int, timeout: float, answer: Sequence[float]) -> None:
        self.answer = answer
        self.outcomes: Counter[str] = Counter()
        self.texts: set[str] = set()
        self.took: list[float] = []  # seconds, of those that were answered
        self._endpoint, self._timeout = endpoint, timeout
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def _ask(self) -> None:
        with connect(self._endpoint, self._timeout) as client:
            while not self._over.is_set():
                begun = time.monotonic()
                how, text = "answered", ""
                try:
                    assert np.allclose(client.predict(kit.SAMPLE)["prediction"], self.answer, atol=1e-4)
                except ServingError as error:
                    how, text = error.code, str(error)
                with self._lock:
                    self.outcomes[how] += 1
                    if text:
                        self.texts.add(text)
                        time.sleep(0.001)  # as one who is refused would
                    else:
                        self.took.append(time.monotonic() - begun)

    @property
    def answered(self) -> int:
        return self.outcomes["answered"]

    def more(self, count: int = 20, seconds: float = 60.0) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.answered + count
        assert wait_until(lambda: self.answered >= wanted, seconds), self.outcomes

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(self._timeout + 10)
            assert not thread.is_alive()


@contextmanager
def clients_at_work(
    endpoint: str, clients: int, timeout: float = 30.0, answer: Sequence[float] = (0.5, 0.5)
) -> Iterator[ThreadedClients]:
    """Clients at work while the block lasts, each of whose answers is this one."""
    made = ThreadedClients(endpoint, clients, timeout, answer)
    made.start()
    try:
        yield made
    finally:
        with suppress(AssertionError):
            made.stop()
    made.stop()
