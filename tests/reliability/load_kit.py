"""What the tests of faults share: clients that ask without end, and what became of each request."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import rpc_kit as kit

from imdb_serving.errors import ServingError
from imdb_serving.server_process import ServerProcess
from imdb_serving.transports.connect import connect

MODES = ["rpc", "socket", "flask"]


def simulated(mode: str, milliseconds: float, workers: int, kind: str = "process", *more: str) -> ServerProcess:
    """A server of a mode whose workers sleep."""
    return ServerProcess.of_mode(
        mode,
        ["--engine", "simulated", "--service-time-ms", str(milliseconds), "--server-threads", str(workers),
         "--worker-kind", kind, *more],
    )  # fmt: skip


class Crowd:
    """Clients that ask one thing after another, and how each of their requests ended."""

    def __init__(self, endpoint: str, clients: int, timeout: float) -> None:
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
                    assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
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
        assert kit.wait_until(lambda: self.answered >= wanted, seconds), self.outcomes

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(self._timeout + 10)
            assert not thread.is_alive()


@contextmanager
def crowd(endpoint: str, clients: int, timeout: float = 30.0) -> Iterator[Crowd]:
    """Clients at work while the block lasts."""
    made = Crowd(endpoint, clients, timeout)
    made.start()
    try:
        yield made
    finally:
        with suppress(AssertionError):
            made.stop()
    made.stop()
