"""Requests that wait for a worker: which are admitted, refused at once, or dropped. No I/O.

First come, first served, except that requests of clients that have half-closed (they may be gone), and of clients whose
requests killed workers, wait behind all others. A request that cannot be answered in time is refused at once, so that
admitted ones are worth their work. The estimate comes from the rate at which waiting requests were taken lately; while
none waits, that rate would be the clients', so it is measured only while some do.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable
from time import monotonic
from typing import Any

import msgspec

from imdb_serving.config import MAX_QUEUE
from imdb_serving.errors import Overloaded

MAX_COUNT = 64
"""Requests over which the time between two is measured; older ones count half as much each time there are as many."""

FEW = 4
"""Below so many requests it is not known."""

REST_SECONDS = 5.0
"""After so long without one that waits, what was measured says nothing any more."""

WAIT_SHARE = 0.5
WHOLE_SHARE = 0.9
"""How much of its time a request may wait, and how much may pass until it is answered, to be let in: what is let in
shall be answered in time, also when the estimate is half wrong."""


class WaitEstimator:
    """Told at every look of the supervisor, asked about each request that comes or is taken while others wait."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.seconds_each = 0.0
        """Seconds from one request's being taken to the next one's, while requests wait; 0 when it is not known."""

        self.service = 0.0
        """Seconds that a request is at work, on average; 0 when it is not known."""

        self._count = self._seconds = self._busy_seconds = 0.0
        self._looked = self._waited = 0.0
        self._taken = 0
        self._was_waiting = False

    def look(self, now: float, taken: int, busy: int, waiting: bool) -> None:
        """Take note, at `now` (seconds), of how many were taken in all, how many workers are at work, if any waits."""
        seconds, count = now - self._looked, taken - self._taken
        self._looked, self._taken = now, taken
        if waiting:
            self._waited = now
        if waiting and self._was_waiting:
            self._count += count
            self._seconds += seconds
            self._busy_seconds += seconds * busy
            if self._count > MAX_COUNT:
                self._count, self._seconds, self._busy_seconds = (
                    value / 2 for value in (self._count, self._seconds, self._busy_seconds)
                )
            self._tell()
        elif now - self._waited > REST_SECONDS and self.seconds_each:
            self._count = self._seconds = self._busy_seconds = 0.0
            self._tell()
        self._was_waiting = waiting

    def _tell(self) -> None:
        known = self._count >= FEW
        self.seconds_each = self._seconds / self._count if known else 0.0
        self.service = self._busy_seconds / self._count if known else 0.0

    def is_hopeless(self, waiting: int, seconds: float) -> bool:
        """Tell whether a request behind so many others would probably not be answered within `seconds`."""
        wait = waiting * self.seconds_each
        return wait > WAIT_SHARE * seconds or wait + self.service > WHOLE_SHARE * seconds


class Task(msgspec.Struct, gc=False, eq=False):
    """A received request: the message for a worker, and its size in bytes.

    `route` is what the listener needs to send the answer back; `deadline` is in monotonic seconds. A `suspect` belongs
    to a client whose requests killed workers.
    """

    route: Any
    request_id: int
    received_ns: int
    deadline: float
    message: Any
    size: int
    open: Any = msgspec.field(default_factory=threading.Lock)
    suspect: bool = False

    def try_finish(self) -> bool:
        """Return True for the first caller only: that thread finishes the task."""
        return bool(self.open.acquire(False))


MAX_QUEUE_BYTES = 256 << 20
LARGE = 1 << 16
"""Bytes of a request from which on the bytes that wait are counted; below, the number of requests bounds them."""

GREEDY_SHARE = 0.5
"""How much of the queue one client may have."""

DISTRUST_SECONDS = 60.0
"""How long the requests of a client wait behind all others after one of them killed workers."""

NO_HOPE = "this server is overloaded: the deadline would pass before the answer; try again later, or another server"


class RequestQueue:
    """Changed by all threads; every change is one step of a deque, or loses a race and finds nothing."""

    def __init__(
        self,
        owner: Callable[[Task], Hashable],
        idle: Callable[[], int],
        *,
        max_passed: int = 0,
        max_queue: int = MAX_QUEUE,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
    ) -> None:
        """Take what tells whose a task is, and how many workers will take one at once.

        That is below 0 where requests wait that were passed on already, at most `max_passed`.
        """
        self._owner, self._idle, self._max_passed = owner, idle, max_passed
        self._max_tasks, self._max_bytes = max_queue, max_queue_bytes
        self.tasks: deque[Task] = deque()
        self.behind: deque[Task] = deque()  # of clients that say no more
        self.estimator = WaitEstimator()
        self.shed_seconds = 0.0  # what is taken with less time left cannot be answered in time
        self._greedy: set[Hashable] = set()
        self._distrusted: dict[Hashable, float] = {}  # until when
        self.counts: Counter[str] = Counter()
        """How many were refused when they came (`refused`), given up later (`late`), or had no client left
        (`abandoned`)."""

    def __len__(self) -> int:
        return len(self.tasks) + len(self.behind)

    def admit(self, task: Task) -> None:
        """Let a task wait, or raise `Overloaded`."""
        if self._distrusted and self._owner(task) in self._distrusted:
            self._admit_behind(task)
            return
        waiting = len(self.tasks)
        if waiting + 1 >= self._max_tasks and waiting >= self._max_tasks + self._idle():
            self._refuse(f"{self._max_tasks} requests wait already, as many as this server lets wait; try again later")
        if waiting:
            if task.size > LARGE and task.size + self._bytes() > self._max_bytes:
                self._refuse(f"requests of {self._max_bytes >> 20} MiB wait already; try again later")
            if self._greedy and self._owner(task) in self._greedy:
                self._refuse("too many of the requests that wait are this client's; read some answers first")
            if self.estimator.seconds_each:
                left = task.deadline - monotonic()
                if self.estimator.is_hopeless(waiting + self._max_passed + 1, left):  # else it has hope in any case
                    beyond = waiting - self._idle()
                    if beyond >= 0 and self.estimator.is_hopeless(beyond + 1, left):
                        self._refuse(NO_HOPE)
        self.tasks.append(task)

    def _admit_behind(self, task: Task) -> None:
        if len(self.behind) >= max(1, self._max_tasks * GREEDY_SHARE):
            self._refuse("too many of the requests that wait are of clients whose requests killed workers")
        task.suspect = True
        self.behind.append(task)

    def distrust(self, owner: Hashable) -> None:
        """Let all requests of a client wait behind all others for a while."""
        self._distrusted[owner] = monotonic() + DISTRUST_SECONDS
        self.set_back(owner)

    def distrusts(self, owner: Hashable) -> bool:
        """Tell whether a client's requests wait behind all others."""
        return owner in self._distrusted

    def _refuse(self, words: str) -> None:
        self.counts["refused"] += 1
        raise Overloaded(words)

    def _bytes(self) -> int:
        return sum(task.size for task in list(self.tasks))

    def look(self, now: float, taken: int, busy: int) -> None:
        """See how fast tasks are taken, and whose they are; called at every look of the supervisor."""
        waiting = len(self.tasks)
        self.estimator.look(now, taken, busy, waiting > 0)
        self.shed_seconds = self.estimator.service if waiting else 0.0
        if self._distrusted:
            self._distrusted = {owner: until for owner, until in self._distrusted.items() if until > now}
        limit = self._max_tasks * GREEDY_SHARE
        if waiting > limit or self._greedy:
            shares = Counter(map(self._owner, list(self.tasks)))
            self._greedy = {owner for owner, count in shares.items() if count > max(1, limit)}

    def late(self, now: float) -> list[Task]:
        """Take out and return what is past its deadline."""
        late = [task for task in [*self.tasks, *self.behind] if task.deadline < now]
        return [task for task in late if self._take_out(task, "late")]

    def abandon(self, owner: Hashable) -> None:
        """Forget all tasks of a client that is gone."""
        for task in self._of(owner, [*self.tasks, *self.behind]):
            if self._take_out(task, "abandoned"):
                task.try_finish()

    def set_back(self, owner: Hashable) -> None:
        """Let the tasks of a client that says no more, and may be gone, wait behind all others."""
        for task in self._of(owner, list(self.tasks)):
            if self._take_out(task, ""):
                self.behind.append(task)

    def _of(self, owner: Hashable, tasks: list[Task]) -> list[Task]:
        return [task for task in tasks if self._owner(task) == owner]

    def _take_out(self, task: Task, why: str) -> bool:
        for tasks in (self.tasks, self.behind):
            try:
                tasks.remove(task)
            except ValueError:
                continue
            if why:
                self.counts[why] += 1
            return True
        return False  # a worker took it just now, and will see for itself

    def clear(self) -> list[Task]:
        """Take out and return all."""
        tasks = [*self.tasks, *self.behind]
        self.tasks.clear()
        self.behind.clear()
        return tasks
