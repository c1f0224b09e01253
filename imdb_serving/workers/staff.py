"""The staff: N seats, and the one policy for workers that die, hang or cannot be started again.

A worker that died or hangs is replaced in the background while the others go on. A place whose workers come to nothing
several times in a row (`tries.py`) is given up; only when the last one is, the whole is broken. Knows no request.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from time import monotonic, sleep

from imdb_serving.errors import ServerStartError
from imdb_serving.workers.process_seat import ProcessSeat
from imdb_serving.workers.seats import STOP_SECONDS, LocalSeat, MakeAnswer, Seat, WorkerKind
from imdb_serving.workers.tries import Tries

log = logging.getLogger(__name__)

START_SECONDS = 120.0
DEATH_SECONDS = 1.0
"""How long a worker whose conversation has ended may take to be gone as well."""

WATCH_SECONDS = 0.5
WATCH_PAUSE_SECONDS = 0.1

SEATS: dict[WorkerKind, type[LocalSeat] | type[ProcessSeat]] = {"thread": LocalSeat, "process": ProcessSeat}


class Staff:
    """`count` workers, each with a handler of its own."""

    def __init__(self, make_answer: MakeAnswer, count: int, kind: WorkerKind, preload: Sequence[str] = ()) -> None:
        """Take everything; nothing is started before `start`."""
        if count < 1:
            raise ServerStartError(f"a server needs at least 1 worker, got {count}")
        self.count, self.kind = count, kind
        self.make_answer, self._preload = make_answer, preload
        self._seats: dict[int, Seat] = {}
        self._idle: deque[Seat] = deque()  # the most recently used first: its caches are warm
        self._changed = threading.Condition()
        self._tries = [Tries() for _ in range(count)]
        self.given_up: dict[int, str] = {}
        """The numbers of the places that were given up, and why."""

        self.replaced = 0
        self._stopping = False
        self.on_broken: Callable[[ServerStartError], None] = lambda _: None

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of what workers time, as they told when they were ready."""
        return next((seat.stage_names for seat in list(self._seats.values()) if seat.stage_names), ())

    def start(self, timeout: float = START_SECONDS) -> None:
        """Start all workers and wait until they are ready; raise `ServerStartError` if one is not."""
        deadline = monotonic() + timeout
        for number in range(self.count):
            try:
                seat = self._make(number)
            except OSError as error:
                raise ServerStartError(
                    f"cannot start {self.count} workers, only {number}: {error.strerror}; "
                    f"use fewer, or raise the limits (ulimit -n, ulimit -u)"
                ) from error
            with self._changed:
                if not self._stopping:
                    self._seats[number] = seat
                    continue
            seat.end(0.0)
            return
        for seat in list(self._seats.values()):
            seat.await_ready(deadline)
        self._idle.extend(self._seats.values())
        if self.kind == "process":
            threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _watch(self) -> None:
        """Replace workers that die while nobody asks them anything; of one at work, the asker sees the end."""
        orphans: set[ProcessSeat] = set()  # the fork server has died, not they
        while not self._stopping:
            try:
                watched = [seat for seat in list(self._seats.values()) if isinstance(seat, ProcessSeat)]
                seats = {seat.sentinel: seat for seat in watched if seat not in orphans}
                ended = wait(list(seats), WATCH_SECONDS)
            except (OSError, ValueError):  # one was buried just now
                continue
            if not seats:
                sleep(WATCH_SECONDS)
            orphans &= set(watched)
            for seat in [*orphans, *(seats[sentinel] for sentinel in ended)]:  # type: ignore[index]
                if seat in self._idle and not seat.is_dead():
                    orphans.add(seat)
                    continue
                try:
                    self._idle.remove(seat)
                except ValueError:
                    sleep(WATCH_PAUSE_SECONDS)
                else:
                    self.replace(seat)

    def _make(self, number: int) -> Seat:
        return SEATS[self.kind](number, self.make_answer, self._preload)

    def pids(self) -> dict[str, int]:
        """Return the process ids of the workers that are processes, by name."""
        seats = list(self._seats.values())
        return {f"worker-{seat.number}": seat.pid for seat in seats if isinstance(seat, ProcessSeat)}

    def missing(self) -> int:
        """Return how many workers are not there at the moment: dead, and not yet replaced."""
        return self.count - len(self._seats)

    def stop(self) -> None:
        """Stop all workers, side by side."""
        with self._changed:
            self._stopping = True
            seats, self._seats = list(self._seats.values()), {}
            self._idle.clear()
            self._changed.notify_all()
        if seats:
            with ThreadPoolExecutor(len(seats)) as threads:
                list(threads.map(lambda seat: seat.end(STOP_SECONDS), seats))

    def replace(self, seat: Seat, *, hung: bool = False, at_work: bool = False) -> None:
        """Stop a dead or hung worker and start another, in the background.

        `at_work` says that it died or hung while working on a request: that is never a reason to give its place up.
        """
        with self._changed:
            if self._stopping or self._seats.get(seat.number) is not seat:
                return
            del self._seats[seat.number]
            self.replaced += 1
        threading.Thread(target=self._hire, args=(seat, hung, at_work), name=f"hire-{seat.number}", daemon=True).start()

    def _hire(self, gone: Seat, hung: bool, at_work: bool) -> None:
        number, tries = gone.number, self._tries[gone.number]
        how = gone.end(0.0 if hung else DEATH_SECONDS)
        tries.ended(gone, how, at_work=at_work)
        fields = {"event": "worker_replaced", "worker": number, "how": how}
        log.warning("worker %d %s and is replaced", number, how, extra=fields)
        while not tries.is_over:
            if self._stops_within(tries.pause):
                return
            seat = None
            try:
                seat = self._make(number)
                seat.await_ready(monotonic() + START_SECONDS)
            except OSError as error:
                tries.refused()
                log.error("worker %d cannot be started for the moment: %s", number, error)  # noqa: TRY400
            except ServerStartError as error:
                tries.not_started()
                log.error("%s", error)  # noqa: TRY400 - the trace is the worker's, not ours
            else:
                self._add(seat)
                return
            if seat is not None:
                seat.end(0.0)
        self._give_up(number, tries.reason)

    def _stops_within(self, seconds: float) -> bool:
        with self._changed:
            return self._stopping or self._changed.wait_for(lambda: self._stopping, seconds)

    def _add(self, seat: Seat) -> None:
        with self._changed:
            if not self._stopping:
                self._seats[seat.number] = seat
                self._idle.append(seat)
                self._changed.notify()
                return
        seat.end(0.0)

    def _give_up(self, number: int, reason: str) -> None:
        fields = {"event": "worker_given_up", "worker": number, "reason": reason}
        log.error("worker %d is given up: %s", number, reason, extra=fields)
        with self._changed:
            self.given_up[number] = reason
            last = len(self.given_up) == self.count
            self._changed.notify_all()
        if last:
            self.on_broken(ServerStartError("no worker is left, and none can be started; giving up"))
