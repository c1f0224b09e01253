"""Finds out what an engine does on this machine, whatever its documents say: interpreter lock, memory, math threads."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time, thread_time

import msgspec
import numpy as np

from imdb_serving.engines.engine import Engine, zeros
from imdb_serving.model.signature import Sample
from imdb_serving.processes import allowed_cores

LENGTHS = (40, 90, 130, 150, 175, 200, 240, 300, 400, 600, 900)
"""Words of the reviews that are run, spread as IMDB's are."""

LONG = 1 << 15
"""Words of a review that takes most engines some time."""

LONGEST = 1 << 21
LOOK_SECONDS = 0.05
"""How long a call must take to be looked at from outside, beside what a busy machine does to the one who looks."""

SWITCH_SECONDS = 1e-5
"""After how long a thread asks another one for the interpreter, while it is measured who has it."""

USUAL = 256
"""Words of a review as they come, run where memory is looked at."""

TRIES, MOST_TRIES = 5, 100


class Probes(msgspec.Struct, frozen=True):
    """What was found.

    `releases_lock`: other threads run Python while the engine computes. `second_mb`: memory that one more engine in the
    same process takes, in MiB. `math_threads_cores`: cores busy with two math threads; None where one core is all
    there is. `locked_us`: for how long a review keeps other threads from running Python; None there as well.
    """

    releases_lock: bool
    second_mb: float
    math_threads_cores: float | None
    locked_us: float | None = None


def probe(make: Callable[[int], Engine], sample: Callable[[int], Sample] = zeros) -> Probes:
    """Try an engine; `make` makes one with a number of math threads, `sample` a sample of at most so many words."""
    review, usual = sample(LONG), sample(USUAL)
    engine = make(1)
    engine.run([usual])
    before = _resident_mb()
    second = make(1)
    second.run([usual])
    second_mb = max(0.0, _resident_mb() - before)
    return Probes(
        releases_lock=releases_lock(engine, review, longest=len(review) if len(sample(2 * LONG)) == len(review) else 0),
        second_mb=round(second_mb, 1),
        math_threads_cores=_cores_of_two_math_threads(make, review),
        locked_us=locked_us(engine, [sample(length) for length in LENGTHS]),
    )


def releases_lock(engine: Engine, review: Sample, longest: int = 0) -> bool:
    """Tell whether another thread can run Python while the engine computes, whatever else the machine does.

    A thread stamps as fast as it can. With the lock held, its longest pause is as long as the call. The shortest of
    some tries counts: a busy machine can make a pause longer, never shorter. `longest` is what the engine takes; a call
    that stays brief is tried more often.
    """
    review, seconds = _long_enough(engine, review, longest or LONGEST)
    shares = []
    for _ in range(min(MOST_TRIES, max(TRIES, round(TRIES * LOOK_SECONDS / seconds)))):
        stamps = _Stamps()
        stamps.start()
        began = perf_counter()
        engine.run([review])
        ended = perf_counter()
        shares.append(stamps.longest_pause(began, ended) / (ended - began))
    return min(shares) < 0.5


def locked_us(engine: Engine, reviews: Sequence[Sample]) -> float | None:
    """Return for how long (us) a review keeps other threads from running Python, on average; None on one core.

    A thread takes all of the interpreter that it gets. What the machine takes from it would seem to be the engine's,
    so the least of some tries counts.
    """
    if len(allowed_cores()) < 2:
        return None
    interval = sys.getswitchinterval()
    taker = _Taker()
    taker.start()
    sys.setswitchinterval(SWITCH_SECONDS)
    held = []
    try:
        for _ in range(TRIES):
            begun, taken = perf_counter(), taker.seconds
            for review in reviews:
                engine.run([review])
            held.append(perf_counter() - begun - (taker.seconds - taken))
    finally:
        sys.setswitchinterval(interval)
        taker.stop()
    return round(max(0.0, min(held)) / len(reviews) * 1e6, 1)


class _Taker(threading.Thread):
    """A thread that runs Python whenever it may; `seconds` is its processor time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds = 0.0
        self._done = False

    def run(self) -> None:
        while not self._done:
            self.seconds = thread_time()

    def stop(self) -> None:
        self._done = True
        self.join()


def _long_enough(engine: Engine, review: Sample, longest: int) -> tuple[Sample, float]:
    """Return a review that is long enough to keep the engine busy for a while, or the longest; and its seconds."""
    while True:
        began = perf_counter()
        engine.run([review])
        seconds = perf_counter() - began
        if seconds >= LOOK_SECONDS or 2 * len(review) > longest:
            return review, seconds
        review = f"{review} {review}" if isinstance(review, str) else np.concatenate([review, review])


class _Stamps(threading.Thread):
    """A thread that takes stamps until it is stopped."""

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


def _cores_of_two_math_threads(make: Callable[[int], Engine], review: Sample) -> float | None:
    if len(allowed_cores()) < 2:
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
