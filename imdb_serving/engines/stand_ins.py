"""The engines that need no model. `none` answers at once: it shows what everything around a model costs.

`simulated` sleeps a service time: few cores measure the schedule of many.
"""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from imdb_serving.engines.engine import Probabilities, Words
from imdb_serving.timing import wake_precisely

if TYPE_CHECKING:
    from imdb_serving.engines.registry import EngineSpec
    from imdb_serving.model.bundle import Bundle

HALF = np.full((1, 2), 0.5, dtype=np.float32)
HALF.flags.writeable = False


class NoneEngine:
    """Answers at once: both classes are equally likely."""

    lengths: Sequence[int] = ()

    def run(self, reviews: Sequence[Words]) -> Probabilities:
        return HALF if len(reviews) == 1 else np.full((len(reviews), 2), 0.5, dtype=np.float32)


def make_none(_spec: EngineSpec, _bundle: Bundle | None) -> NoneEngine:
    """Make one."""
    return NoneEngine()


LEARN = 0.1
"""How much one late end counts in what is expected of the next."""


class SimulatedEngine(NoneEngine):
    """Sleeps its service time once a request, however many reviews that holds, then answers like `NoneEngine`."""

    def __init__(self, spec: EngineSpec) -> None:
        """Take the mean service time, and fixed or exponential."""
        self._mean = spec.service_time_ms / 1000
        self._exponential = spec.distribution == "exponential"
        self._thread = threading.local()
        # Workers must not all sleep the same times: each draws from a stream of its own.
        worker = f"{multiprocessing.current_process().name}/{threading.current_thread().name}"
        self._random = random.Random(f"{spec.seed}/{worker}")  # noqa: S311 - service times, not secrets

    def run(self, reviews: Sequence[Words]) -> Probabilities:
        """Sleep, then return 0.5 for every class; both together take the service time on average.

        A sleeper is woken late, by about as much as it was before, so it asks for that much less.
        """
        seconds = self._random.expovariate(1 / self._mean) if self._exponential and self._mean else self._mean
        until = time.perf_counter() + seconds
        if not hasattr(self._thread, "late"):
            wake_precisely()
            self._thread.late = 0.0
        time.sleep(max(0.0, seconds - self._thread.late))
        answer = super().run(reviews)
        self._thread.late = max(0.0, self._thread.late + LEARN * (time.perf_counter() - until))
        return answer


def make_simulated(spec: EngineSpec, _bundle: Bundle | None) -> SimulatedEngine:
    """Make one."""
    return SimulatedEngine(spec)
