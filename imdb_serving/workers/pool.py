"""The pool: who asks gets an idle worker, the most recently used one, and an answer by the deadline.

`ask` may be called from any number of threads; each call has a seat to itself. A request whose worker dies is given to
another one, once: a prediction changes nothing, so that is safe. One that killed two workers is refused for a while if
it comes again, and while there are such requests the last worker is kept for requests that are not suspected. A worker
that is only late may finish first. Who is there, and who comes in whose place, is the staff's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from threading import get_ident
from time import monotonic, sleep
from typing import Any

from imdb_serving.errors import UNFORESEEN, RemoteFailure, RequestTimeout, ServerUnavailable
from imdb_serving.workers.channel import NotSent
from imdb_serving.workers.front import Task
from imdb_serving.workers.seats import LocalSeat, MakeAnswer, Seat, WorkerKind
from imdb_serving.workers.staff import Staff
from imdb_serving.workers.suspects import KILLS, Quarantine, WorkersDied, fingerprint_of

log = logging.getLogger(__name__)

LATE_SECONDS = 2.0
SUSPECT_SECONDS = 0.02
"""How often a suspect that waits looks whether there are workers enough for it."""

WAITED = "the deadline passed while the request waited for a worker"
AT_WORK = "the deadline passed while a worker was at the request"
DIED = "two workers died while working on this request; the server's log says how"
REFUSED = "two workers died while working on this request lately; it is not given to another for {:.0f} s"
NONE_LEFT = "no worker is left, and none can be started; use another server"


class Pool(Staff):
    """A staff that can be asked."""

    def __init__(
        self,
        make_answer: MakeAnswer,
        count: int,
        kind: WorkerKind,
        preload: Sequence[str] = (),
        fingerprint: Callable[[Any], bytes] = fingerprint_of,
    ) -> None:
        """Take everything; nothing is started before `start`.

        `fingerprint` returns what is equal for two messages that ask the same.
        """
        super().__init__(make_answer, count, kind, preload)
        self._fingerprint = fingerprint
        self.quarantine = Quarantine()
        self._waiting = self._suspects = 0
        self.asked_again = 0
        """How many requests were given to another worker."""

    def ask(self, received_ns: int, message: Any, deadline: float, *, suspect: bool = False) -> Any:
        """Have a worker answer one message before `deadline` (monotonic seconds).

        A `suspect` comes from a client whose requests killed workers. Raises `RequestTimeout` when no worker was free
        or the one asked did not answer in time, `WorkersDied` when two died at it, and `ServerUnavailable` when no
        worker will ever be there again.
        """
        if monotonic() >= deadline:
            raise RequestTimeout(WAITED)
        if self.quarantine.active and (left := self.quarantine.seconds_left(self._fingerprint(message))):
            raise WorkersDied(REFUSED.format(max(1.0, left)))
        try:
            return self._ask_one(received_ns, message, deadline, suspect)
        except WorkersDied:
            with self._changed:
                self.asked_again += 1
        try:
            return self._ask_one(received_ns, message, deadline, suspect=True)
        except WorkersDied:
            self.quarantine.add(self._fingerprint(message), KILLS)
            raise

    def _ask_one(self, received_ns: int, message: Any, deadline: float, suspect: bool) -> Any:
        if suspect:
            self._await_spare(deadline)
        try:
            return self._ask_seat(self._take(deadline), received_ns, message, deadline)
        finally:
            if suspect:
                with self._changed:
                    self._suspects -= 1

    def _ask_seat(self, seat: Seat, received_ns: int, message: Any, deadline: float) -> Any:
        try:
            answer = seat.ask(received_ns, message, deadline)
        except TimeoutError:
            self._let_finish(seat, message)
            raise RequestTimeout(AT_WORK) from None
        except NotSent as error:
            log.error("a request could not be passed to worker %d: %s", seat.number, error)  # noqa: TRY400
            self._give_back(seat)
            raise RemoteFailure(UNFORESEEN) from error
        except (EOFError, OSError) as error:
            self.quarantine.note_death()
            self.replace(seat, at_work=True)
            raise WorkersDied(DIED) from error
        except BaseException:  # what the worker said cannot be read
            self.replace(seat, hung=True, at_work=True)
            raise
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
        return self.ask(task.received_ns, task.message, task.deadline, suspect=task.suspect)

    def _await_spare(self, deadline: float) -> None:
        """Count a suspect as at work, once that leaves a worker to the others.

        That is asked only while a request is refused for having killed workers, and where there is more than one.
        """
        while True:
            with self._changed:
                spare = len(self._seats) - self._suspects - 1
                if spare >= min(1, self.count - len(self.given_up) - 1) or not self.quarantine.active:
                    self._suspects += 1
                    return
            if (left := deadline - monotonic()) <= 0:
                raise RequestTimeout(WAITED)
            sleep(min(left, SUSPECT_SECONDS))  # and not on the condition, whose signals are for the others

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

    def _let_finish(self, seat: Seat, message: Any) -> None:
        """Let a late worker finish in the background; one that does not in `LATE_SECONDS` hangs, and is replaced.

        The deadline is the client's: to end a sound worker for it would have an overload take the workers as well.
        """

        def finish() -> None:
            if seat.settles(LATE_SECONDS):
                self._give_back(seat)
            else:
                self.quarantine.note_death()
                self.quarantine.add(self._fingerprint(message), 1)
                self.replace(seat, hung=True, at_work=True)

        threading.Thread(target=finish, name=f"late-{seat.number}", daemon=True).start()

    def replace_stuck(self, thread: int | None) -> None:
        """Replace the seat in which a thread, given by its identifier, hangs."""
        for seat in list(self._seats.values()):
            if isinstance(seat, LocalSeat) and seat.thread == thread:
                self.quarantine.note_death()
                self.replace(seat, hung=True, at_work=True)
