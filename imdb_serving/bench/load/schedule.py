"""When requests of an open loop are to be sent, drawn beforehand from a stored seed. Knows times and no client."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from imdb_serving.bench.cell import CONSTANT, OFFLINE, POISSON
from imdb_serving.errors import ConfigError


def arrival_times(kind: str, rate: float, count: int, seed: int) -> NDArray[np.int64]:
    """Return `count` times in nanoseconds from the start, in order; `rate` is in requests a second.

    Poisson arrivals are drawn given their number, so that exactly this rate is offered: then they are uniform over
    `count / rate` seconds (Ross, Introduction to Probability Models, theorem 5.2). Offline, all are 0.
    """
    if kind == OFFLINE:
        return np.zeros(count, np.int64)
    seconds = count / rate
    if kind == CONSTANT:
        return (np.arange(count) * 1e9 / rate).astype(np.int64)
    if kind == POISSON:
        times = np.sort(np.random.default_rng(seed).uniform(0, seconds, count))
        return (times * 1e9).astype(np.int64)
    raise ConfigError(f"arrivals: {kind!r} has no times; expected {POISSON}, {CONSTANT} or {OFFLINE}")


class Tickets:
    """Numbers from 0 up, each given out once to whichever process asks next.

    A number is the place of a byte appended to a shared file: the kernel has appends wait for each other, and each
    process is told where its own went.
    """

    def __init__(self, path: Path) -> None:
        """Use the file at `path`, which is made if there is none."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def take(self) -> int:
        """Return the next number."""
        os.write(self._file, b".")
        return os.lseek(self._file, 0, os.SEEK_CUR) - 1

    def __enter__(self) -> Tickets:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
