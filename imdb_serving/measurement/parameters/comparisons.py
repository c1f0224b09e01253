"""Parameters of what is no grid: the overhead ladder, our servers beside others, and how cost grows."""

from __future__ import annotations

import math

import msgspec

from imdb_serving.config import engine_name
from imdb_serving.engines.registry import ENGINES, check_net, engines_for
from imdb_serving.errors import ConfigError
from imdb_serving.measurement.parameters.checks import (
    CHOICES,
    check_choice,
    check_counts,
    check_engine,
    check_names,
    check_positive,
    check_rounds,
    check_timeout,
)


class LadderParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of the ladder notebook: `requests` are those of each client in each block."""

    engines: list[str] = msgspec.field(default_factory=lambda: [*engines_for("cnn"), "none"])
    net: str = "cnn"
    model: str = ""
    server_threads: int = 2
    math_threads: int = 1
    rounds: int = 8
    requests: int = 40
    seed: int = 2020
    timeout: float = 30.0
    sweep: str = "ladder"
    run: str = ""
    outputs: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "engines", [engine_name(engine) for engine in self.engines])
        for engine in self.engines:
            check_choice("engines", engine, ENGINES)
        check_choice("net", self.net, CHOICES["net"])
        for engine in self.engines:
            check_net(engine, self.net)
        if not self.engines or len(set(self.engines)) != len(self.engines):
            raise ConfigError(f"engines: expected different engines, got {self.engines}")
        check_positive(self, "server_threads", "math_threads", "requests")
        check_rounds(self.rounds)
        check_timeout(self.timeout)
        check_names(self.sweep, self.run)


class ComparisonParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One comparison of our servers with others; the `requests` of a block are shared by its clients."""

    engine: str = "none"
    net: str = "cnn"
    model: str = ""
    workers: int = 2
    client_threads: list[int] = msgspec.field(default_factory=lambda: [1, 8])
    rounds: int = 6
    requests: int = 2500
    seed: int = 2020
    timeout: float = 30.0
    run: str = ""

    def __post_init__(self) -> None:
        check_engine(self)
        check_choice("net", self.net, CHOICES["net"])
        check_net(self.engine, self.net)
        check_counts("client_threads", self.client_threads)
        check_positive(self, "workers", "requests")
        if max(*self.client_threads, self.workers) > self.requests:
            raise ConfigError(f"requests: {self.requests} are too few for so many clients")
        check_rounds(self.rounds)
        check_timeout(self.timeout)


class ScalingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measurement of how cost grows: a list of values an axis, all else kept as it is.

    `workers` are of the simulated engine, each with a client; on the other axes the engine is `none`, with two workers.
    """

    workers: list[int] = msgspec.field(default_factory=lambda: [1, 2, 4, 8, 16, 24, 32, 48])
    clients: list[int] = msgspec.field(default_factory=lambda: [1, 2, 5, 10, 20, 50, 100, 200, 500])
    words: list[int] = msgspec.field(default_factory=lambda: [8, 32, 128, 512, 2000])
    batch: list[int] = msgspec.field(default_factory=lambda: [1, 4, 16, 64, 256])
    service_time_ms: float = 8.0
    seconds: float = 1.0
    rounds: int = 3
    seed: int = 2020
    timeout: float = 60.0
    run: str = ""

    def __post_init__(self) -> None:
        for axis in ("workers", "clients", "words", "batch"):
            check_counts(axis, getattr(self, axis))
        check_rounds(self.rounds)
        check_timeout(self.timeout)
        for name in ("service_time_ms", "seconds"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name}: must be above 0, got {getattr(self, name)}")
