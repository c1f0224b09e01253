"""Who used the CPU while a cell was measured: server, clients, others, the hypervisor. Knows processes and no cell."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import perf_counter

import psutil

from imdb_serving.bench.record.machine import allowed, load


@dataclass(slots=True)
class Usage:
    """CPU seconds of a block, and the load of the machine (waiting processes) before and after it."""

    server_s: float = 0.0
    client_s: float = 0.0
    busy_s: float = 0.0
    steal_s: float = 0.0
    own_s: float = 0.0
    seconds: float = 0.0
    load_before: float = 0.0
    load_after: float = 0.0

    @property
    def foreign_cores(self) -> float:
        """How many cores processes used that are neither server nor client nor this one; at least 0."""
        rest = self.busy_s - self.server_s - self.client_s - self.own_s
        return max(0.0, rest) / self.seconds if self.seconds else 0.0

    @property
    def steal_cores(self) -> float:
        """How many cores the hypervisor took."""
        return self.steal_s / self.seconds if self.seconds else 0.0


@contextmanager
def watching(servers: Sequence[int], clients: Sequence[int]) -> Iterator[Usage]:
    """Fill in the usage of the `with` block: of these servers' and clients' process trees, and of all allowed cores."""
    usage = Usage(load_before=load())
    busy, steal = cores_seconds()
    server, client, own, begun = cpu_seconds(servers), cpu_seconds(clients), own_seconds(), perf_counter()
    try:
        yield usage
    finally:
        usage.seconds = perf_counter() - begun
        usage.server_s, usage.client_s = cpu_seconds(servers) - server, cpu_seconds(clients) - client
        usage.own_s = own_seconds() - own
        busy_now, steal_now = cores_seconds()
        usage.busy_s, usage.steal_s = busy_now - busy, steal_now - steal
        usage.load_after = load()


def cpu_seconds(servers: Sequence[int]) -> float:
    """Return the CPU time of these processes and all their children until now, those that have ended as well."""
    total = 0.0
    for pid in servers:
        with suppress(psutil.NoSuchProcess):
            server = psutil.Process(pid)
            for process in [server, *server.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    total += sum(process.cpu_times()[:4])  # user, system, and both of children it has waited for
    return total


def own_seconds() -> float:
    """Return the CPU time of this process until now."""
    times = os.times()
    return times.user + times.system


def cores_seconds() -> tuple[float, float]:
    """Return the seconds that the allowed cores were busy, and those that the hypervisor took."""
    every = psutil.cpu_times(percpu=True)
    cores = [every[core] for core in allowed() if core < len(every)]
    idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in cores)
    steal = sum(getattr(core, "steal", 0.0) for core in cores)
    # Guests' time is in that of their users already.
    guests = sum(getattr(core, "guest", 0.0) + getattr(core, "guest_nice", 0.0) for core in cores)
    return sum(sum(core) for core in cores) - guests - idle - steal, steal
