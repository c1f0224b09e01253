"""What an engine does on this machine, tried and not assumed: the interpreter lock, shared weights, math threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import msgspec
import numpy as np

from imdb_serving.engines.engine import Engine, Words

LONG = 1 << 15
"""Words of a review that takes most engines some time."""

LONGEST = 1 << 21
LOOK_SECONDS = 0.05
"""How long a call must take to be looked at from outside, beside what a busy machine does to the one who looks."""

USUAL = 256
"""Words of a review as they come, run where memory is looked at."""

TRIES = 5


class Probes(msgspec.Struct, frozen=True):
    """What was found.

    `releases_lock`: other threads run Python while the engine computes. `second_mb`: memory that one more engine in the
    same process takes, in MiB. `math_threads_cores`: cores busy with two math threads; None where one core is all
    there is.
    """

    releases_lock: bool
    second_mb: float
    math_threads_cores: float | None


def probe(make: Callable[[int], Engine]) -> Probes:
    """Try an engine; `make` makes one with a number of math threads."""
    review = np.zeros(LONG, dtype=np.int64)
    engine = make(1)
    engine.run([review[:USUAL]])
    before = _resident_mb()
    second = make(1)
    second.run([review[:USUAL]])
    second_mb = max(0.0, _resident_mb() - before)
    return Probes(
        releases_lock=releases_lock(engine, review),
        second_mb=round(second_mb, 1),
        math_threads_cores=_cores_of_two_math_threads(make, review),
    )


def releases_lock(engine: Engine, review: Words) -> bool:
    """Tell whether another thread can run Python while the engine computes, whatever else the machine does.

    A thread stamps as fast as it can. With the lock held, its longest pause is as long as the call. The shortest of
    some tries counts: a busy machine can make a pause longer, never shorter.
    """
    review = _long_enough(engine, review)
    shares = []
    for _ in range(TRIES):
        stamps = _Stamps()
        stamps.start()
        began = perf_counter()
        engine.run([review])
        ended = perf_counter()
        shares.append(stamps.longest_pause(began, ended) / (ended - began))
    return min(shares) < 0.5


def _long_enough(engine: Engine, review: Words) -> Words:
    """Return a review that keeps the engine at work for a while, by doubling one."""
    while True:
        began = perf_counter()
        engine.run([review])
        if perf_counter() - began >= LOOK_SECONDS or len(review) >= LONGEST:
            return review
        review = np.concatenate([review, review])


class _Stamps(threading.Thread):
    """Stamps until told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stamps: list[float] = []
        self._running = threading.Event()
        self._done = False

    def start(self) -> None:
        super().start()
        self._running.wait()

    def run(self) -> None:
        self._running.set()
        while not self._done:
            self._stamps.append(perf_counter())

    def longest_pause(self, began: float, ended: float) -> float:
        self._done = True
        self.join()
        inside = [stamp for stamp in self._stamps if began < stamp < ended]
        return float(np.diff([began, *inside, ended]).max())


def _cores_of_two_math_threads(make: Callable[[int], Engine], review: Words) -> float | None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        return None
    engine = make(2)
    engine.run([review])
    wall, cpu = perf_counter(), process_time()
    for _ in range(4 * TRIES):
        engine.run([review])
    return round((process_time() - cpu) / (perf_counter() - wall), 2)


def _resident_mb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
