"""The pool: N seats, and the one policy for workers that come late, die, hang or cannot be started again.

`ask` may be called from any number of threads; each call has a seat to itself. A worker that dies or hangs is replaced
in the background while the others go on; one that is only late may finish first. A seat whose worker cannot be started
several times in a row is given up; only when the last one is, the pool is broken.
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

from imdb_serving.errors import RemoteFailure, RequestTimeout, ServerStartError
from imdb_serving.workers.front import Task
from imdb_serving.workers.seats import SEATS, LocalSeat, MakeAnswer, ProcessSeat, Seat, WorkerKind

log = logging.getLogger(__name__)

START_SECONDS = 120.0
LATE_SECONDS = 2.0
MAX_FAILED_STARTS = 3
PAUSE_SECONDS = 0.1
WATCH_SECONDS = 0.5

WAITED = "the deadline passed while the request waited for a worker"
AT_WORK = "the deadline passed while a worker was at the request"


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
        self._given_up = 0
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
            self._seats[number] = self._make(number)
        for seat in self._seats.values():
            seat.await_ready(deadline)
        self._idle.extend(self._seats.values())
        if self.kind == "process":
            threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _watch(self) -> None:
        """Replace workers that die while nobody asks them anything; of one at work, the asker sees the end."""
        while not self._stopping:
            try:
                seats = {seat.sentinel: seat for seat in list(self._seats.values()) if isinstance(seat, ProcessSeat)}
                ended = wait(list(seats), WATCH_SECONDS)
            except (OSError, ValueError):  # one was buried just now
                continue
            if not seats:
                sleep(WATCH_SECONDS)
            for sentinel in ended:
                seat = seats[sentinel]  # type: ignore[index]
                try:
                    self._idle.remove(seat)
                except ValueError:
                    sleep(PAUSE_SECONDS)
                else:
                    self.replace(seat)

    def _make(self, number: int) -> Seat:
        return SEATS[self.kind](number, self._make_answer, self._preload)

    def missing(self) -> int:
        """Return how many workers are not there at the moment: dead, and not yet replaced."""
        return self.count - len(self._seats)

    def ask(self, received_ns: int, message: Any, deadline: float) -> Any:
        """Have a worker answer one message before `deadline` (monotonic seconds).

        Raises `RequestTimeout` when no worker was free or the one asked did not answer in time, and `RemoteFailure`
        when it died.
        """
        if monotonic() >= deadline:
            raise RequestTimeout(WAITED)
        seat = self._take(deadline)
        try:
            answer = seat.ask(received_ns, message, deadline)
        except TimeoutError:
            self._let_finish(seat)
            raise RequestTimeout(AT_WORK) from None
        except (EOFError, OSError) as error:
            self.replace(seat)
            raise RemoteFailure(f"worker {seat.number} died while working on this request; send it again") from error
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
        if seats:
            with ThreadPoolExecutor(len(seats)) as threads:
                list(threads.map(lambda seat: seat.end(gently=True), seats))

    def _take(self, deadline: float) -> Seat:
        """Return an idle seat, waiting for one until the deadline."""
        while True:
            try:
                seat = self._idle.pop()
            except IndexError:
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
                self.replace(seat)

        threading.Thread(target=finish, name=f"late-{seat.number}", daemon=True).start()

    def replace_stuck(self, thread: int | None) -> None:
        """Replace the seat in which a thread, given by its identifier, hangs."""
        for seat in list(self._seats.values()):
            if isinstance(seat, LocalSeat) and seat.thread == thread:
                self.replace(seat)

    def replace(self, seat: Seat) -> None:
        """Bury a worker that nobody waits for any more, and start another in its place, in the background."""
        with self._changed:
            if self._stopping or self._seats.get(seat.number) is not seat:
                return
            del self._seats[seat.number]
        log.warning("worker %d died or did not answer in time and is replaced", seat.number)
        threading.Thread(target=self._hire, args=(seat,), name=f"hire-{seat.number}", daemon=True).start()

    def _hire(self, gone: Seat) -> None:
        gone.end(gently=False)
        for attempt in range(MAX_FAILED_STARTS):
            seat = None
            try:
                seat = self._make(gone.number)
                seat.await_ready(monotonic() + START_SECONDS)
            except (ServerStartError, OSError) as error:
                log.error("%s", error)  # noqa: TRY400 - the trace is the worker's, not ours
                if seat is not None:
                    seat.end(gently=False)
                with self._changed:
                    if self._stopping or self._changed.wait_for(lambda: self._stopping, PAUSE_SECONDS * 4**attempt):
                        return
                continue
            self._add(seat)
            return
        self._give_up(gone)

    def _add(self, seat: Seat) -> None:
        with self._changed:
            if not self._stopping:
                self._seats[seat.number] = seat
                self._idle.append(seat)
                self._changed.notify()
                return
        seat.end(gently=False)

    def _give_up(self, gone: Seat) -> None:
        with self._changed:
            self._given_up += 1
            last = self._given_up == self.count
        log.error("worker %d could not be started %d times in a row and is given up", gone.number, MAX_FAILED_STARTS)
        if last:
            self.on_broken(ServerStartError("no worker is left, and none can be started; giving up"))
