"""Who used the CPU while a cell was measured: server, clients, other processes, the hypervisor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil

from imdb_serving.measurement.control_groups import throttled_seconds
from imdb_serving.measurement.machine import load
from imdb_serving.processes import allowed_cores


@dataclass(slots=True)
class Usage:
    """CPU seconds of a block, and the load of the machine (waiting processes) before and after it.

    `front_s` is what of `server_s` the process took to which clients connect, its children's not counted, and
    `throttled_s` for how long a quota stopped this process's control groups, None without a quota. Where the server's
    processes are not known, what they used is not either; `memory_mib` is what they have at the end of the block.
    """

    server_s: float = 0.0
    front_s: float = 0.0
    client_s: float = 0.0
    busy_s: float = 0.0
    steal_s: float = 0.0
    own_s: float = 0.0
    seconds: float = 0.0
    throttled_s: float | None = None
    load_before: float = 0.0
    load_after: float = 0.0
    is_known: bool = True
    memory_mib: float | None = None

    @property
    def foreign_cores(self) -> float:
        """How many cores processes used that are neither server nor client nor this one; at least 0."""
        rest = self.busy_s - self.server_s - self.client_s - self.own_s
        return max(0.0, rest) / self.seconds if self.seconds else 0.0

    @property
    def steal_cores(self) -> float:
        """How many cores the hypervisor took."""
        return self.steal_s / self.seconds if self.seconds else 0.0


class CpuMeter:
    """Reads the CPU time that process trees and the machine have used since the meter was made or last read.

    With `fixed` the trees are looked up once, at the start, which makes `read` cheap enough for several a second.
    """

    def __init__(self, servers: Sequence[int], clients: Sequence[int], *, fixed: bool = False) -> None:
        """Start to measure the trees of these process ids."""
        self._pids = servers, clients
        self._trees = (process_tree(servers), process_tree(clients)) if fixed else None
        self._load = load()
        self._last, self._throttled = self._now(), throttled_seconds()

    def read(self, usage: Usage | None = None) -> Usage:
        """Return what was used since the last call; `usage` is filled in and returned when it is given."""
        usage = usage or Usage()
        now = self._now()
        server, front, client, own, busy, steal, seconds = (new - old for new, old in zip(now, self._last, strict=True))
        # A process that ended takes its time with it; a difference below zero means that, and no use.
        usage.server_s, usage.front_s, usage.client_s = max(server, 0.0), max(front, 0.0), max(client, 0.0)
        throttled = throttled_seconds()
        usage.throttled_s = None if throttled is None else throttled - (self._throttled or 0.0)
        self._throttled = throttled
        usage.own_s, usage.busy_s, usage.steal_s, usage.seconds = own, busy, steal, seconds
        usage.load_before, self._last, self._load = self._load, now, load()
        usage.load_after = self._load
        return usage

    def _now(self) -> tuple[float, float, float, float, float, float, float]:
        servers, clients = self._trees or map(process_tree, self._pids)
        busy, steal = cores_seconds()
        front = _seconds(servers[:1], count=2)
        return _seconds(servers), front, _seconds(clients), own_seconds(), busy, steal, perf_counter()


@contextmanager
def watching(
    servers: Sequence[int], clients: Sequence[int], *, is_known: bool = True, is_guarded: bool = False
) -> Iterator[Usage]:
    """Fill in the usage of the `with` block: of these servers' and clients' process trees, and of all allowed cores.

    Servers that are guarded are the children of a guard each, whose memory is not theirs.
    """
    usage, meter = Usage(is_known=is_known), CpuMeter(servers, clients)
    try:
        yield usage
    finally:
        meter.read(usage)
        usage.memory_mib = memory_mib([one for one in process_tree(servers) if not (is_guarded and one.pid in servers)])


def memory_mib(processes: Sequence[psutil.Process]) -> float | None:
    """Return the memory of these processes, in MiB; None for none.

    What several share counts once, where the kernel says how much that is.
    """
    total = 0
    for process in processes:
        with suppress(psutil.Error):
            total += getattr(process.memory_full_info(), "pss", 0) or process.memory_info().rss
    return total / 2**20 if total else None


def added(usages: Sequence[Usage]) -> Usage:
    """Return the usage of several stretches together."""
    is_known = all(usage.is_known for usage in usages)
    total = Usage(load_before=usages[0].load_before, load_after=usages[-1].load_after, is_known=is_known)
    for usage in usages:
        for name in ("server_s", "front_s", "client_s", "busy_s", "steal_s", "own_s", "seconds"):
            setattr(total, name, getattr(total, name) + getattr(usage, name))
    return total


def process_tree(pids: Sequence[int]) -> list[psutil.Process]:
    """Return the processes of these ids and all their children; those that have ended are left out."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *_descendants(process)]
    return found


def _descendants(process: psutil.Process) -> Iterator[psutil.Process]:
    """Yield the children of a process, and theirs, as the kernel lists them.

    Where it does not, psutil reads of every process of the machine who its parent is.
    """
    if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
        yield from process.children(recursive=True)
        return
    for listed in Path(f"/proc/{process.pid}/task").glob("*/children"):  # a child belongs to the thread that began it
        with suppress(OSError):
            for pid in listed.read_text().split():
                with suppress(psutil.NoSuchProcess):
                    child = psutil.Process(int(pid))
                    yield child
                    yield from _descendants(child)


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time of these processes and all their children until now, those that have ended as well."""
    return _seconds(process_tree(pids))


def _seconds(processes: Sequence[psutil.Process], count: int = 4) -> float:
    """Return the CPU time of processes: user, system, and both of children they have waited for; or the first two."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:count])
    return total


def own_seconds() -> float:
    """Return the CPU time of this process until now."""
    times = os.times()
    return times.user + times.system


def cores_seconds() -> tuple[float, float]:
    """Return the seconds that the allowed cores were busy, and those that the hypervisor took."""
    every = psutil.cpu_times(percpu=True)
    cores = [every[core] for core in allowed_cores() if core < len(every)]
    idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in cores)
    steal = sum(getattr(core, "steal", 0.0) for core in cores)
    # Guests' time is in that of their users already.
    guests = sum(getattr(core, "guest", 0.0) + getattr(core, "guest_nice", 0.0) for core in cores)
    return sum(sum(core) for core in cores) - guests - idle - steal, steal
