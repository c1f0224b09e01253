"""The units of a server: started together, and replaced in the background when they die, hang or do not start."""

from __future__ import annotations

import logging
import queue
import select
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic
from typing import Any

from imdb_serving.config import WorkerKind
from imdb_serving.errors import ServerStartError
from imdb_serving.messages import ServerInfo
from imdb_serving.server.workers.handover import Handover
from imdb_serving.server.workers.ready_set import EpollReadySet, ReadySet
from imdb_serving.server.workers.restarts import RestartPolicy
from imdb_serving.server.workers.scoreboard import Row, Scoreboard
from imdb_serving.server.workers.unit import STOP_SECONDS, ProcessUnit, ThreadUnit, Unit
from imdb_serving.server.workers.worker import Worker

log = logging.getLogger(__name__)

START_SECONDS = 120.0
DEATH_SECONDS = 1.0
"""How long a unit whose conversation has ended may take to be gone as well."""


def nothing_yet() -> Any:
    """Stand in for what makes a worker's carrier until that is known."""
    raise NotImplementedError


class Units:
    """`workers` workers in `count` processes, or, if that is 0, in threads of this one."""

    def __init__(self, workers: int, count: int, preload: Sequence[str] = ()) -> None:
        """Take everything; nothing is started before `start`."""
        if workers < 1:
            raise ServerStartError(f"a server needs at least 1 worker, got {workers}")
        if workers < count:
            raise ServerStartError(f"{count} processes need as many workers, got {workers}; use fewer processes")
        self.kind: WorkerKind = "process" if count else "thread"
        self.workers, self.count, self._preload = workers, count or workers, preload
        self.make_carrier: Callable[[], Any] = nothing_yet
        self._units: dict[int, Unit] = {}
        self._changed = threading.Condition()
        self._tries = [RestartPolicy() for _ in range(self.count)]
        self.given_up: dict[int, str] = {}
        """The numbers of the places that were given up, and why."""

        self.replaced = 0
        self._stopping = False
        self.newcomers: queue.SimpleQueue[Unit] = queue.SimpleQueue()
        self._free: list[int] = []
        self._last: dict[int, tuple[list[int], Unit | None]] = {}  # of each place: the rows, and who has them

    def share(
        self,
        shared: tuple[Scoreboard, ReadySet, Handover],
        start: Callable[[Row, Any, int], Worker],
        notify: Callable[[], None],
    ) -> None:
        """Take what all units share, and what makes a worker that is a thread; before `start`.

        `notify` is called, from any thread, when there are `newcomers`, or a place was given up.
        """
        self._shared, self._start_worker, self._notify = shared, start, notify
        self._free = list(range(shared[0].workers))

    def threads_of(self, number: int) -> int:
        """Return how many workers a unit has: all of them, divided as evenly as can be."""
        if self.kind == "thread":
            return 1
        return self.workers // self.count + (number < self.workers % self.count)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of what workers time, as they told when they were ready."""
        return next((unit.stage_names for unit in list(self._units.values()) if unit.stage_names), ())

    def ready_workers(self) -> int:
        """Return how many workers are there now."""
        return sum(self.threads_of(number) for number in list(self._units))

    @property
    def missing(self) -> int:
        """How many workers are not there at the moment."""
        return self.workers - self.ready_workers()

    @property
    def are_lost(self) -> bool:
        """Whether every place was given up."""
        return len(self.given_up) == self.count

    def pids(self) -> dict[str, int]:
        """Return the process ids of the units that are processes, by name."""
        units = list(self._units.values())
        return {f"worker-{unit.number}": unit.pid for unit in units if isinstance(unit, ProcessUnit)}

    def start(self, timeout: float = START_SECONDS) -> None:
        """Start all units and wait until they are ready; raise `ServerStartError` if one is not."""
        deadline = monotonic() + timeout
        for number in range(self.count):
            try:
                unit = self._make(number)
            except OSError as error:
                raise ServerStartError(
                    f"cannot start {self.count} workers, only {number}: {error.strerror}; "
                    f"use fewer, or raise the limits (ulimit -n, ulimit -u)"
                ) from error
            with self._changed:
                if not self._stopping:
                    self._units[number] = unit
                    continue
            unit.end(0.0)
            return
        for unit in list(self._units.values()):
            unit.await_ready(deadline)
        for unit in list(self._units.values()):
            self.newcomers.put(unit)
        self._notify()

    def _make(self, number: int) -> Unit:
        board = self._shared[0]
        with self._changed:
            last, self._last[number] = self._last.get(number, ([], None)), ([], None)
            if not (isinstance(last[1], ThreadUnit) and last[1].is_running):
                self._free += last[0]
            count = self.threads_of(number)
            if len(self._free) < count:
                raise OSError(0, "too many workers hang")
            taken, self._free = self._free[:count], self._free[count:]
            self._last[number] = taken, None
        rows = [board.rows[row] for row in taken]
        for row in rows:
            row.clear()
        if self.kind == "thread":
            unit: Unit = ThreadUnit(number, self.make_carrier, rows, self._start_worker)
        else:
            ready, handover = self._shared[1:]
            assert isinstance(ready, EpollReadySet)  # noqa: S101 - processes are not offered elsewhere
            numbered = list(zip(taken, rows, strict=True))
            unit = ProcessUnit(number, self.make_carrier, numbered, (board, ready, handover), self._preload)
        self._last[number] = taken, unit
        return unit

    def stop(self) -> None:
        """Stop all units, side by side."""
        with self._changed:
            self._stopping = True
            units, self._units = list(self._units.values()), {}
            self._changed.notify_all()
        if units:
            with ThreadPoolExecutor(len(units)) as threads:
                list(threads.map(lambda unit: unit.end(STOP_SECONDS), units))

    def replace(self, unit: Unit, *, hung: bool = False, at_work: bool = False) -> None:
        """End a dead or hung unit and start another, in the background.

        `at_work` says that it died or hung while working on a request: that is never a reason to give its place up.
        """
        with self._changed:
            if self._stopping or self._units.get(unit.number) is not unit:
                return
            del self._units[unit.number]
            self.replaced += 1
        threading.Thread(target=self._hire, args=(unit, hung, at_work), name=f"hire-{unit.number}", daemon=True).start()

    def _hire(self, gone: Unit, hung: bool, at_work: bool) -> None:
        number, tries = gone.number, self._tries[gone.number]
        how = gone.end(0.0 if hung else DEATH_SECONDS)
        tries.ended(gone.made, how, proven=gone.proven, at_work=at_work)
        fields = {"event": "worker_replaced", "worker": number, "how": how}
        log.warning("worker %d %s and is replaced", number, how, extra=fields)
        while not tries.is_over:
            if self._stops_within(tries.pause):
                return
            unit = None
            try:
                unit = self._make(number)
                unit.await_ready(monotonic() + START_SECONDS)
            except OSError as error:
                tries.refused()
                log.error("worker %d cannot be started for the moment: %s", number, error)  # noqa: TRY400
            except ServerStartError as error:
                tries.not_started()
                log.error("%s", error)  # noqa: TRY400 - the trace is the worker's, not ours
            else:
                self._add(unit)
                return
            if unit is not None:
                unit.end(0.0)
        self._give_up(number, tries.reason)

    def _stops_within(self, seconds: float) -> bool:
        with self._changed:
            return self._stopping or self._changed.wait_for(lambda: self._stopping, seconds)

    def _add(self, unit: Unit) -> None:
        with self._changed:
            if not self._stopping:
                self._units[unit.number] = unit
                self.newcomers.put(unit)
                self._notify()
                return
        unit.end(0.0)

    def _give_up(self, number: int, reason: str) -> None:
        fields = {"event": "worker_given_up", "worker": number, "reason": reason}
        log.error("worker %d is given up: %s", number, reason, extra=fields)
        with self._changed:
            self.given_up[number] = reason
            self._changed.notify_all()
        self._notify()


def units_for(workers: int, count: int, preload: Sequence[str], info: ServerInfo) -> tuple[Units, ServerInfo]:
    """Return the units of a server, and what it says of itself: without epoll its workers are threads of one process.

    What they answer with comes later, as `make_carrier`.
    """
    if count and not hasattr(select, "epoll"):
        log.warning("this system has no epoll: the workers are threads of one process, not %d processes", count)
        count, info = 0, replace(info, worker_kind="thread", server_processes=1)
    return Units(workers, count, preload), info
