"""Requests that the supervisor has read itself: they wait, are passed to workers, and come back as answers.

A request whose worker dies goes to another one, once; that is safe, because a prediction changes nothing. A request
that killed two workers is refused for a while, and its client's other requests wait behind all others.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import suppress
from time import monotonic, perf_counter_ns

from imdb_serving.errors import CODES, UNFORESEEN, RemoteFailure, RequestTimeout, ServingError
from imdb_serving.server.connection import StreamConnection
from imdb_serving.server.listener import Listener
from imdb_serving.server.request_queue import RequestQueue, Task
from imdb_serving.server.stream_listener import OUT_OF_RESOURCES
from imdb_serving.server.workers.carrier import Carrier
from imdb_serving.server.workers.handover import Handover, Passed, Report
from imdb_serving.server.workers.live import LiveUnits
from imdb_serving.server.workers.restarts import KILLS, Quarantine, WorkersDied
from imdb_serving.server.workers.scoreboard import PASSED
from imdb_serving.server.workers.units import Units
from imdb_serving.server.workers.worker import log_failure

log = logging.getLogger(__name__)

WAITED = "the deadline passed while the request waited for a worker"
DIED = "two workers died while working on this request; the server's log says how"
REFUSED = "two workers died while working on this request lately; it is not given to another for {:.0f} s"


class Dispatcher:
    """Used by the supervisor's thread alone, but for what workers call that take what waits by themselves."""

    def __init__(
        self,
        listener: Listener,
        handover: Handover,
        units: Units,
        live: LiveUnits,
        queue: RequestQueue,
        carrier: Carrier,
    ) -> None:
        """Take what it works with."""
        self._fingerprint, self._pack = carrier.fingerprint, carrier.pack
        self._listener, self._handover, self._units, self._live, self.queue = listener, handover, units, live, queue
        self.work_numbers: tuple[int, ...] = ()
        """The descriptors at which idle workers wait for what is passed to them."""

        self.refusing: Callable[[], ServingError | None] | None = None
        """Returns what all requests are refused with while the server starts or drains; None while it is open."""

        self.quarantine = Quarantine()
        self.counts: Counter[str] = Counter()
        """How many requests ended how, beside those that the workers count."""

        self._counting = threading.Lock()
        self.asked_again = 0
        self.in_flight: dict[int, Task] = {}
        """Requests that were passed on, by number, until a worker says that it is done with them."""

        self._again: set[Task] = set()  # those at which a worker died
        self._numbers = itertools.count(1)
        self._blamed: StreamConnection | None = None

    def submit(self, task: Task) -> None:
        """Accept a request; raise `Overloaded` when it may not wait, another `ServingError` when it is refused."""
        if self.refusing is not None and (refusal := self.refusal()) is not None:
            raise refusal
        if self.quarantine.active and (left := self.quarantine.seconds_left(self._fingerprint(task.message))):
            self.queue.distrust(self._listener.owner(task))
            raise WorkersDied(REFUSED.format(max(1.0, left)))
        if task.route is self._blamed:
            self._blamed = None
            self.ask_again(task)
            return
        self.queue.admit(task)

    def refusal(self) -> ServingError | None:
        """Return what all requests are refused with, if they are."""
        return None if self.refusing is None else self.refusing()

    def ask_again(self, task: Task) -> None:
        """Give a request at which a worker died to another one."""
        self.asked_again += 1
        self._again.add(task)
        task.suspect = True
        self.queue.behind.appendleft(task)

    def blame(self, connection: StreamConnection) -> None:
        """Ask the request that lies on a connection once more, as one that may have killed its worker."""
        self.quarantine.note_death()
        self._blamed = connection
        self._listener.reclaim(connection.descriptor)
        self._blamed = None

    def note_hang(self, message: bytes) -> None:
        """Count a request at which a worker hung; one that hung two workers is refused for a while."""
        with suppress(ServingError):  # what lies there now may be another one, and half of it
            self.quarantine.add(self._fingerprint(message), 1)

    def died_at(self, number: int) -> None:
        """See to a passed request whose worker has died."""
        task = self.in_flight.pop(number, None)
        if task is None or task.open.locked():
            return
        self.quarantine.note_death()
        if task not in self._again:
            self.ask_again(task)
            return
        self.quarantine.add(self._fingerprint(task.message), KILLS)
        self.queue.distrust(self._listener.owner(task))
        self.fail(task, WorkersDied(DIED))

    def pass_on(self) -> None:
        """Pass requests to workers: as many as there are workers, and one for who is done first."""
        window = self._units.ready_workers()
        while len(self.in_flight) <= window and (task := self._next(window)) is not None:
            number = next(self._numbers)
            deadline_ns = perf_counter_ns() + int((task.deadline - monotonic()) * 1e9)
            message = task.message if self._handover.local else self._pack(task.message)
            try:
                has_room = self._handover.pass_on(Passed(number, task.received_ns, deadline_ns, message))
            except OSError as error:
                if error.errno not in OUT_OF_RESOURCES:
                    log.exception("a request could not be passed to a worker")
                    self.fail(task, RemoteFailure(UNFORESEEN))
                    continue
                has_room = False  # the system is short of something for the moment
            if not has_room:
                (self.queue.behind if task.suspect else self.queue.tasks).appendleft(task)
                return
            self.in_flight[number] = task

    def _next(self, workers: int) -> Task | None:
        """Take the next request that this process has read off the queue."""
        for task in self.queue.tasks:
            if task.message is not None:
                self.queue.tasks.remove(task)
                return task
        if not self.queue.behind:
            return None
        task = self.queue.behind[0]
        if task.message is None:  # it lies on a lent connection, whose requests are no longer any worker's to take
            self.queue.behind.popleft()
            if self._listener.take(task.route.descriptor):
                self._listener.reclaim(task.route.descriptor)
            return self._next(workers)
        if task.suspect and self.quarantine.active:
            suspects = sum(request.suspect for request in self.in_flight.values())
            if workers - suspects - 1 < min(1, self._units.workers - 1):
                return None
        return self.queue.behind.popleft()

    def abandon(self, owner: Hashable) -> None:
        """Forget all requests of a client that is gone."""
        self.queue.abandon(owner)
        self._again = {task for task in self._again if self._listener.owner(task) != owner}
        for task in list(self.in_flight.values()):
            if self._listener.owner(task) == owner:
                task.try_finish()

    def finish(self, report: Report) -> bool:
        """Send the answer to a request that was passed on; return False if it had ended, and been counted, before."""
        task = self.in_flight.pop(report.number, None)
        if task is None:
            return True
        self._again.discard(task)
        if not task.try_finish():
            return False
        if report.code and log.isEnabledFor(logging.INFO):
            log_failure(task.request_id, self._listener.client(task), report.code, task.received_ns)
        self._listener.answer(task, report.data)
        return True

    def uncount(self, code: int) -> None:
        """Undo that a worker counted an answer: its request had been answered in its place."""
        self.counts[CODES[code] or "answered"] -= 1

    def not_read(self, number: int, why: str = "a worker could not read a request that was passed to it") -> None:
        """End a passed request that its worker could not read, or whose answer could not be read."""
        task = self.in_flight.pop(number, None)
        if task is not None:
            log.error("%s: %d bytes", why, task.size)
            self.fail(task, RemoteFailure(UNFORESEEN))

    def fail(self, task: Task, error: ServingError) -> None:
        """End a request with an error, unless it has ended."""
        self._again.discard(task)
        if not task.try_finish():
            return
        with self._counting:
            self.counts[error.code] += 1
        if log.isEnabledFor(logging.INFO):
            log_failure(task.request_id, self._listener.client(task), error.code, task.received_ns)
        self._listener.fail(task, error)

    def idle(self) -> int:
        """Return how many workers will take a request at once; below 0, how many that were passed on wait for one."""
        idle = sum(not row.is_busy for row in self._live.rows)
        if not (passed := list(self.in_flight.items())):
            return idle
        taken = self.taken()
        taking = sum(row.number in self.work_numbers and not row.cells[PASSED] for row in self._live.rows)
        untaken = sum(number not in taken and not task.open.locked() for number, task in passed) - taking
        return idle - max(0, untaken)

    def taken(self) -> set[int]:
        """Return the numbers of the requests that were passed on and are at work."""
        return {row.cells[PASSED] for row in self._live.rows}

    def waits(self) -> bool:
        """Tell whether a request that was passed on waits for a worker."""
        return bool(self.in_flight and self.in_flight.keys() - self.taken())

    def end_late(self, now: float) -> list[Task]:
        """Fail requests that have waited past their deadline; return those that lie on lent connections instead.

        Of those that were passed on, what is at work is others' to end.
        """
        taken = self.taken()
        late = self.queue.late(now)
        passed = [task for number, task in list(self.in_flight.items()) if task.deadline < now and number not in taken]
        for task in [*late, *passed]:
            if task.message is not None:
                self.fail(task, RequestTimeout(WAITED))
        return [task for task in late if task.message is None]

    def refuse_all(self, error: ServingError) -> None:
        """Fail all requests that are not answered yet."""
        for task in [*self.queue.clear(), *list(self.in_flight.values())]:
            if task.message is not None:
                self.fail(task, error)
