"""The CPU time that server, clients and others used, read several times a second: cheap, for processes known before.

Knows processes and no load.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter

import psutil

from imdb_serving.bench.record.machine import load
from imdb_serving.bench.runs.watch import Usage, cores_seconds, own_seconds


class Meter:
    """Reads the CPU time of a server with its children, and of client processes, since it was made or last read."""

    def __init__(self, servers: Sequence[int], clients: Sequence[int]) -> None:
        """Find the processes once: to look for them takes longer than a stretch of load may pause."""
        self._servers = [process for pid in servers for process in _family(pid)]
        self._clients = [process for pid in clients for process in _family(pid)]
        self._load = load()
        self._last = self._now()

    def read(self) -> Usage:
        """Return what was used since the last time."""
        now = self._now()
        server, client, own, busy, steal, clock = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        before, self._load = self._load, load()
        # A process that ended takes its time with it; less than nothing was never used.
        return Usage(
            server_s=max(server, 0.0),
            client_s=max(client, 0.0),
            own_s=own,
            busy_s=busy,
            steal_s=steal,
            seconds=clock,
            load_before=before,
            load_after=self._load,
        )

    def _now(self) -> tuple[float, float, float, float, float, float]:
        busy, steal = cores_seconds()
        return _seconds(self._servers), _seconds(self._clients), own_seconds(), busy, steal, perf_counter()


def added(usages: Sequence[Usage]) -> Usage:
    """Return the usage of several stretches together."""
    total = Usage(load_before=usages[0].load_before, load_after=usages[-1].load_after)
    for usage in usages:
        for name in ("server_s", "client_s", "busy_s", "steal_s", "own_s", "seconds"):
            setattr(total, name, getattr(total, name) + getattr(usage, name))
    return total


def _family(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _seconds(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total
