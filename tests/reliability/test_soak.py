"""Long use costs no memory: the growth of each process's memory over many requests of the IMDB length mix."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy import stats

from imdb_serving.clients.connect import connect
from imdb_serving.protocol.requests import make_request
from imdb_serving.server_process import ServerProcess
from imdb_serving.text.reviews import Reviews

CLIENTS = 4
LOOKS = 60
WARM_UP = 0.25
MIB = 1 << 20
HUNDRED_THOUSAND = 100_000


def lengths_of(reviews: Reviews) -> list[int]:
    """The words of each review, at most as many as a request may have."""
    return [min(len(example.text.split()) or 1, 2000) for example in reviews.held_out]


def held_by(process: psutil.Process) -> float:
    """The MiB that a process has made for itself, in memory or swapped out.

    On Linux without pages of files, which the system takes from a process and gives back as it likes.
    """
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return float(process.memory_info().rss / MIB)
    fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
    return sum(float(fields[name].split()[0]) for name in ("RssAnon", "VmSwap")) / 1024


class Soak:
    """Clients that work through so many requests, and the memory of each process of a server meanwhile."""

    def __init__(self, server: ServerProcess, lengths: list[int], count: int) -> None:
        self.server, self.count = server, count
        rng = np.random.default_rng(2020)
        self.requests = [
            make_request(({"words": rng.integers(0, 100, length)},), ("prediction",))
            for length in rng.choice(lengths, 500)
        ]
        self.done = 0
        self.errors: list[Exception] = []
        self.lock = threading.Lock()

    def _ask(self) -> None:
        try:
            with connect(self.server.endpoint, 60) as client:
                while True:
                    with self.lock:
                        number, self.done = self.done, self.done + 1
                    if number >= self.count:
                        return
                    client.call(self.requests[number % len(self.requests)])
        except Exception as error:
            self.errors.append(error)

    def run(self) -> dict[int, tuple[list[int], list[float]]]:
        """By process: at how many requests it held how many MiB."""
        family = [psutil.Process(self.server.pid), *psutil.Process(self.server.pid).children(recursive=True)]
        threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        seen: dict[int, tuple[list[int], list[float]]] = {process.pid: ([], []) for process in family}
        for thread in threads:
            thread.start()
        for look in range(1, LOOKS + 1):
            while self.done < self.count * look / LOOKS and any(thread.is_alive() for thread in threads):
                threads[0].join(0.05)
            for process in family:
                at, held = seen[process.pid]
                at.append(self.done)
                held.append(held_by(process))
        for thread in threads:
            thread.join(120)
        assert not self.errors, self.errors[:3]
        return seen


def assert_no_growth(server: ServerProcess, lengths: list[int], count: int, allowed: float) -> None:
    """Check that no process grows: the slope's interval (95 %) holds 0, or the slope is below what is allowed."""
    for pid, (at, held) in Soak(server, lengths, count).run().items():
        start = int(len(at) * WARM_UP)
        fit = stats.linregress(at[start:], held[start:])
        slope, margin = HUNDRED_THOUSAND * np.nan_to_num([fit.slope, 1.96 * fit.stderr])  # none where all are equal
        name = "server" if pid == server.pid else "child"
        print(f"{name}: {slope:+.2f} +- {margin:.2f} MiB per 100,000 requests, {held[start]:.0f} to {held[-1]:.0f} MiB")
        assert abs(slope) <= margin or slope < allowed, (name, slope, margin)


@pytest.mark.parametrize(("mode", "kind"), [("rpc", "process"), ("flask", "thread")])
def test_memory_does_not_grow_with_requests(mode: str, kind: str, small_reviews: Reviews) -> None:
    arguments = ["--engine", "none", "--server-threads", "2", "--worker-kind", kind]
    with ServerProcess.of_mode(mode, arguments) as server:
        assert_no_growth(server, lengths_of(small_reviews), 6_000, 40.0)  # a leak of 400 bytes a request


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("engine", ["none", "simulated", "folded", "onnxruntime", "paddle"])
def test_memory_does_not_grow_with_two_hundred_thousand_requests(engine: str, bundle: Path, packaged: Reviews) -> None:
    model = [str(bundle)] if engine not in {"none", "simulated"} else ["--service-time-ms", "0.1"]
    with ServerProcess.of_mode("rpc", [*model, "--engine", engine, "--server-threads", "2"]) as server:
        print(engine, end=": ")
        assert_no_growth(server, lengths_of(packaged), 200_000, 1.0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", ["socket", "flask"])
def test_no_way_of_serving_grows_with_two_hundred_thousand_requests(mode: str, packaged: Reviews) -> None:
    with ServerProcess.of_mode(mode, ["--engine", "none", "--server-threads", "2"]) as server:
        print(mode, end=": ")
        assert_no_growth(server, lengths_of(packaged), 200_000, 1.0)
