"""Which cores a server may use, and which of them each worker has for itself. Knows no request and no engine.

Set once, when a server starts, as the affinity of a process is one for all of it. Without it the system decides.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from imdb_serving.errors import ConfigError

_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")

_of_worker: list[list[int]] = []


def parse_cores(words: str) -> list[int]:
    """Read `0-3,6` as taskset does; raise `ConfigError` for what is no list of cores, or names one not to be had."""
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError("cores: this system keeps no process on some of its cores; leave it out")
    cores: set[int] = set()
    for part in words.split(","):
        found = _RANGE.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise ConfigError(f"cores: expected a list like 0-3,6, got {words!r}")
        cores |= set(range(first, last + 1))
    if missing := sorted(cores - os.sched_getaffinity(0)):
        here = in_words(sorted(os.sched_getaffinity(0)))
        raise ConfigError(f"cores: {in_words(missing)} cannot be used here; those that can: {here}")
    return sorted(cores)


def in_words(cores: Sequence[int]) -> str:
    """Return sorted cores as `0-3,6`."""
    ranges: list[list[int]] = []
    for core in cores:
        if ranges and ranges[-1][-1] == core - 1:
            ranges[-1][1:] = [core]
        else:
            ranges.append([core])
    return ",".join("-".join(map(str, ends)) for ends in ranges)


def shared_out(cores: Sequence[int], workers: int, each: int) -> list[list[int]]:
    """Give each worker so many cores of its own; none where there are not enough for all."""
    if workers * each > len(cores):
        return []
    return [list(cores[number * each : (number + 1) * each]) for number in range(workers)]


def settle(cores: Sequence[int], workers: int, each: int) -> None:
    """Keep this process, and what it starts from now on, on these cores, and give workers theirs."""
    pin(cores)
    for thread in Path("/proc/self/task").glob("*"):  # libraries have started some of theirs when loaded
        with suppress(OSError):
            os.sched_setaffinity(int(thread.name), cores)
    _of_worker[:] = shared_out(cores, workers, each)


def of_worker(number: int) -> list[int]:
    """Return the cores of a worker; none when it has none of its own."""
    return _of_worker[number] if number < len(_of_worker) else []


def pin(cores: Sequence[int]) -> None:
    """Keep the calling thread on these cores, if they are any; one that has gone since is no reason to fail."""
    if cores:
        with suppress(OSError):
            os.sched_setaffinity(0, cores)
