"""The pool: N seats, and the one policy for workers that come late, die, hang or cannot be started again.

`ask` may be called from any number of threads; each call has a seat to itself. A request whose worker dies is given to
another one, once: a prediction changes nothing, so that is safe. A worker that dies or hangs is replaced in the
background while the others go on; one that is only late may finish first. A place whose workers come to nothing
several times in a row (`tries.py`) is given up; only when the last one is, the pool is broken.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from threading import get_ident
from time import monotonic, sleep
from typing import Any

from imdb_serving.errors import RemoteFailure, RequestTimeout, ServerStartError, ServerUnavailable
from imdb_serving.workers.front import Task
from imdb_serving.workers.seats import SEATS, STOP_SECONDS, LocalSeat, MakeAnswer, ProcessSeat, Seat, WorkerKind
from imdb_serving.workers.tries import Tries

log = logging.getLogger(__name__)

START_SECONDS = 120.0
LATE_SECONDS = 2.0
DEATH_SECONDS = 1.0
"""How long a worker whose conversation has ended may take to be gone as well."""

WATCH_SECONDS = 0.5
WATCH_PAUSE_SECONDS = 0.1

WAITED = "the deadline passed while the request waited for a worker"
AT_WORK = "the deadline passed while a worker was at the request"
DIED = "two workers died while working on this request; the server's log says how"
NONE_LEFT = "no worker is left, and none can be started; use another server"


class Pool:
    """`count` workers, each with a handler of its own."""

    def __init__(self, make_answer: MakeAnswer, count: int, kind: WorkerKind, preload: Sequence[str] = ()) -> None:
        """Take everything; nothing is started before `start`."""
        if count < 1:
            raise ServerStartError(f"a server needs at least 1 worker, got {count}")
        self.count, self.kind = count, kind
        self._make_answer, self._preload = make_answer, preload
        self._seats: dict[int, Seat] = {}
        self._idle: deque[Seat] = deque()  # the most recently used first: its caches are warm
        self._changed = threading.Condition()
        self._waiting = 0
        self._tries = [Tries() for _ in range(count)]
        self.given_up: dict[int, str] = {}
        """The numbers of the places that were given up, and why."""

        self.replaced = 0
        self.asked_again = 0
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
                self._seats[number] = self._make(number)
            except OSError as error:
                raise ServerStartError(
                    f"cannot start {self.count} workers, only {number}: {error.strerror}; "
                    f"use fewer, or raise the limits (ulimit -n, ulimit -u)"
                ) from error
        for seat in self._seats.values():
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
        return SEATS[self.kind](number, self._make_answer, self._preload)

    def pids(self) -> dict[str, int]:
        """Return the process ids of the workers that are processes, by name."""
        seats = list(self._seats.values())
        return {f"worker-{seat.number}": seat.pid for seat in seats if isinstance(seat, ProcessSeat)}

    def missing(self) -> int:
        """Return how many workers are not there at the moment: dead, and not yet replaced."""
        return self.count - len(self._seats)

    def ask(self, received_ns: int, message: Any, deadline: float) -> Any:
        """Have a worker answer one message before `deadline` (monotonic seconds).

        Raises `RequestTimeout` when no worker was free or the one asked did not answer in time, `RemoteFailure` when
        two died at it, and `ServerUnavailable` when no worker will ever be there again.
        """
        if monotonic() >= deadline:
            raise RequestTimeout(WAITED)
        try:
            return self._ask_one(received_ns, message, deadline)
        except RemoteFailure:
            with self._changed:
                self.asked_again += 1
            return self._ask_one(received_ns, message, deadline)

    def _ask_one(self, received_ns: int, message: Any, deadline: float) -> Any:
        seat = self._take(deadline)
        try:
            answer = seat.ask(received_ns, message, deadline)
        except TimeoutError:
            self._let_finish(seat)
            raise RequestTimeout(AT_WORK) from None
        except (EOFError, OSError) as error:
            self.replace(seat)
            raise RemoteFailure(DIED) from error
        self._give_back(seat)
        return answer

    def ask_here(self, task: Task) -> Any:
        """Have the calling thread answer a task, for workers that are threads.

        It is `ask` without its detours, which cost more than a small model: where a crew has as many threads as there
        are workers, a seat is free for whoever asks.
        """
        if monotonic() >= task.deadline:
            raise RequestTimeout(WAITED)
        try:
            seat: LocalSeat = self._idle.pop()  # type: ignore[assignment]  # of all kinds only this one is asked here
        except IndexError:
            return self.ask(task.received_ns, task.message, task.deadline)
        seat.thread = get_ident()
        try:
            return seat.answer(task.received_ns, task.message)
        finally:
            seat.thread = 0
            if seat is self._seats.get(seat.number):
                self._idle.append(seat)

    def ask_for(self, task: Task) -> Any:
        """Have any worker answer a task; see `ask`."""
        return self.ask(task.received_ns, task.message, task.deadline)

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

    def _take(self, deadline: float) -> Seat:
        """Return an idle seat, waiting for one until the deadline."""
        while True:
            try:
                seat = self._idle.pop()
            except IndexError:
                if len(self.given_up) == self.count:
                    raise ServerUnavailable(NONE_LEFT) from None
                if not self._await_idle(deadline - monotonic()):
                    raise RequestTimeout(WAITED) from None
                continue
            if not seat.is_dead():
                return seat
            self.replace(seat)

    def _await_idle(self, seconds: float) -> bool:
        with self._changed:
            self._waiting += 1
            try:
                return bool(self._idle) or (seconds > 0 and self._changed.wait(seconds))
            finally:
                self._waiting -= 1

    def _give_back(self, seat: Seat) -> None:
        if self._seats.get(seat.number) is not seat:
            return  # it came back after all, when another had its place
        self._idle.append(seat)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def _let_finish(self, seat: Seat) -> None:
        """Let a late worker finish in the background; one that does not in `LATE_SECONDS` hangs, and is replaced.

        The deadline is the client's: to end a sound worker for it would have an overload take the workers as well.
        """

        def finish() -> None:
            if seat.settles(LATE_SECONDS):
                self._give_back(seat)
            else:
                self.replace(seat, hung=True)

        threading.Thread(target=finish, name=f"late-{seat.number}", daemon=True).start()

    def replace_stuck(self, thread: int | None) -> None:
        """Replace the seat in which a thread, given by its identifier, hangs."""
        for seat in list(self._seats.values()):
            if isinstance(seat, LocalSeat) and seat.thread == thread:
                self.replace(seat, hung=True)

    def replace(self, seat: Seat, *, hung: bool = False) -> None:
        """Bury a worker that nobody waits for any more, and start another in its place, in the background."""
        with self._changed:
            if self._stopping or self._seats.get(seat.number) is not seat:
                return
            del self._seats[seat.number]
            self.replaced += 1
        threading.Thread(target=self._hire, args=(seat, hung), name=f"hire-{seat.number}", daemon=True).start()

    def _hire(self, gone: Seat, hung: bool) -> None:
        number, tries = gone.number, self._tries[gone.number]
        how = gone.end(0.0 if hung else DEATH_SECONDS)
        tries.ended(gone, how)
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
