"""Engines: what runs inside op1. Paddle's inference, and two stand-ins that need no model.

`null` answers at once and shows what everything around the model costs; `simulated` sleeps a given service time, so
that a machine with few cores can measure the schedule of one with many.
"""

from __future__ import annotations

import math
import multiprocessing
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from imdb_serving.errors import BundleError, ConfigError, did_you_mean
from imdb_serving.model.bundle import Bundle
from imdb_serving.model.feeds import Feed, FeedLayout

Probabilities = NDArray[np.float32]
EngineName = Literal["paddle", "null", "simulated"]
WorkerKind = Literal["thread", "process"]

ENGINES: dict[str, WorkerKind] = {"paddle": "process", "null": "thread", "simulated": "thread"}
"""The engines, and the kind of worker each runs best in: Paddle's `run` holds the interpreter lock."""

DISTRIBUTIONS = ("fixed", "exponential")
"""How the service times of `simulated` vary."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which engine to make. Service times apply to `simulated`, math threads to `paddle`."""

    name: str = "paddle"
    math_threads: int = 1
    service_time_ms: float = 5.0
    distribution: Literal["fixed", "exponential"] = "fixed"
    seed: int = 2020

    def __post_init__(self) -> None:
        """Refuse what no engine can do."""
        if self.name not in ENGINES:
            raise ConfigError(f"unknown engine {self.name!r}{did_you_mean(self.name, ENGINES)}")
        if self.math_threads < 1:
            raise ConfigError(f"math_threads must be at least 1, got {self.math_threads}")
        if self.distribution not in DISTRIBUTIONS:
            raise ConfigError(
                f"unknown distribution {self.distribution!r}{did_you_mean(self.distribution, DISTRIBUTIONS)}"
            )
        if not (math.isfinite(self.service_time_ms) and self.service_time_ms >= 0):
            raise ConfigError(f"service_time_ms must be a finite number of at least 0, got {self.service_time_ms}")


class Engine(Protocol):
    """Runs one padded call. Used by one thread at a time."""

    def run(self, feed: Feed) -> Probabilities:
        """Return the class probabilities of the feed's real rows, shape [rows, 2] float32."""


class PaddleEngine:
    """Paddle's own inference, one predictor."""

    def __init__(self, program: Path, weights: Path, *, onednn: bool, math_threads: int) -> None:
        """Load a program and its weights; takes a few seconds, most of it Paddle's import."""
        from imdb_serving.model.framework import inference

        config = inference.Config(str(program), str(weights))
        config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(math_threads)
        if onednn:
            config.enable_mkldnn()
        else:
            config.disable_mkldnn()
        self._predictor: Any = inference.create_predictor(config)
        handles = {name: self._predictor.get_input_handle(name) for name in self._predictor.get_input_names()}
        unknown = set(handles) - {"words", "mask"}
        if unknown:
            raise BundleError(f"{program} wants inputs {sorted(unknown)}; only words and mask can be fed")
        self._words, self._mask = handles["words"], handles.get("mask")
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def run(self, feed: Feed) -> Probabilities:
        """Return the probabilities of one padded call."""
        self._words.copy_from_cpu(feed.words)
        if self._mask is not None:
            self._mask.copy_from_cpu(feed.mask)
        self._predictor.run()
        probabilities: Probabilities = self._output.copy_to_cpu()
        return probabilities[: feed.rows]


class NullEngine:
    """Answers at once: both classes are equally likely."""

    def run(self, feed: Feed) -> Probabilities:
        """Return 0.5 for every class."""
        return np.full((feed.rows, 2), 0.5, dtype=np.float32)


class SimulatedEngine(NullEngine):
    """Sleeps its service time once a call, then answers like `NullEngine`."""

    def __init__(self, spec: EngineSpec) -> None:
        """Take the mean service time, and fixed or exponential."""
        self._mean = spec.service_time_ms / 1000
        self._exponential = spec.distribution == "exponential"
        # Workers must not all sleep the same times: each draws from a stream of its own.
        worker = f"{multiprocessing.current_process().name}/{threading.current_thread().name}"
        self._random = random.Random(f"{spec.seed}/{worker}")  # noqa: S311 - service times, not secrets

    def run(self, feed: Feed) -> Probabilities:
        """Sleep, then return 0.5 for every class."""
        seconds = self._random.expovariate(1 / self._mean) if self._exponential and self._mean else self._mean
        time.sleep(seconds)
        return super().run(feed)


def make_engine(spec: EngineSpec, bundle: Bundle | None) -> Engine:
    """Make an engine; `paddle` needs a bundle."""
    if spec.name == "null":
        return NullEngine()
    if spec.name == "simulated":
        return SimulatedEngine(spec)
    if bundle is None:
        raise ConfigError("the paddle engine needs a model; give one, or use --engine null or simulated")
    return PaddleEngine(bundle.program, bundle.weights, onednn=bundle.card.onednn, math_threads=spec.math_threads)


def warm_up(engine: Engine, layout: FeedLayout, longest: int = 2048) -> None:
    """Run one review of every length the layout tells apart, so that no request pays for a first time."""
    lengths = range(layout.length_multiple, longest + 1, layout.length_multiple)
    if layout.length_multiple == 1:
        lengths = range(1, longest + 1, 256)
    for length in lengths:
        engine.run(layout.pad([np.zeros(length, dtype=np.int64)]))
