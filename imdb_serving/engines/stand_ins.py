"""The engines that need no model. `none` answers at once: it shows what everything around a model costs.

`simulated` sleeps a service time: few cores measure the schedule of many.
"""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from imdb_serving.model.signature import Probabilities, Sample
from imdb_serving.timing import wake_precisely

if TYPE_CHECKING:
    from imdb_serving.engines.registry import EngineSpec
    from imdb_serving.model.bundle import Bundle

HALF = np.full((1, 2), 0.5, dtype=np.float32)
HALF.flags.writeable = False

Stand = TypeVar("Stand", bound="NoneEngine")


class NoneEngine:
    """Answers at once: all classes are equally likely."""

    lengths: Sequence[int] = ()
    classes = 2

    def run(self, reviews: Sequence[Sample]) -> Probabilities:
        if len(reviews) == 1 and self.classes == 2:
            return HALF
        return np.full((len(reviews), self.classes), 1 / self.classes, dtype=np.float32)


def make_none(_spec: EngineSpec, bundle: Bundle | None) -> NoneEngine:
    """Make one, with a model's classes if there is one."""
    return _with_classes(NoneEngine(), bundle)


def _with_classes(engine: Stand, bundle: Bundle | None) -> Stand:
    if bundle is not None:
        engine.classes = len(bundle.card.labels)
    return engine


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

    def run(self, reviews: Sequence[Sample]) -> Probabilities:
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


def make_simulated(spec: EngineSpec, bundle: Bundle | None) -> SimulatedEngine:
    """Make one, as `make_none` does."""
    return _with_classes(SimulatedEngine(spec), bundle)
