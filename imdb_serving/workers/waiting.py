"""The requests that wait for a thread of the crew: which are let in, which refused, and which go without an answer.

First come, first served, but for those of clients that say no more (they may be gone), and of clients whose requests
killed workers, which wait behind all others.
One that could not be answered in time is refused at once: what is let in shall be worth the work. It knows no
transport: whose a request is, the front says.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable
from time import monotonic

from imdb_serving.errors import Overloaded
from imdb_serving.workers.backlog import Backlog
from imdb_serving.workers.front import Task

MAX_QUEUE = 1000
MAX_QUEUE_BYTES = 256 << 20
LARGE = 1 << 16
"""Bytes of a request from which on the bytes that wait are counted; below, the number of requests bounds them."""

GREEDY_SHARE = 0.5
"""How much of the queue one client may have."""

DISTRUST_SECONDS = 60.0
"""How long the requests of a client wait behind all others after one of them killed workers."""

NO_HOPE = "this server is overloaded: the deadline would pass before the answer; try again later, or another server"


class Waiting:
    """Changed by all threads; every change is one step of a deque, or loses a race and finds nothing."""

    def __init__(
        self,
        owner: Callable[[Task], Hashable],
        idle: Callable[[], int],
        *,
        max_queue: int = MAX_QUEUE,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
    ) -> None:
        """Take what tells whose a task is, and how many threads will take one at once."""
        self._owner, self._idle = owner, idle
        self._max_tasks, self._max_bytes = max_queue, max_queue_bytes
        self.tasks: deque[Task] = deque()
        self.behind: deque[Task] = deque()  # of clients that say no more
        self.backlog = Backlog()
        self.shed_seconds = 0.0  # what is taken with less time left cannot be answered in time
        self._greedy: set[Hashable] = set()
        self._distrusted: dict[Hashable, float] = {}  # until when
        self.counts: Counter[str] = Counter()
        """How many were refused when they came (`refused`), given up later (`shed`, `late`), or had no client left
        (`abandoned`)."""

    def __len__(self) -> int:
        return len(self.tasks) + len(self.behind)

    def admit(self, task: Task) -> None:
        """Let a task wait, or raise `Overloaded`."""
        if self._distrusted and self._owner(task) in self._distrusted:
            self._admit_behind(task)
            return
        waiting = len(self.tasks)
        if waiting >= self._max_tasks and waiting >= self._max_tasks + self._idle():
            self._refuse(f"{self._max_tasks} requests wait already, as many as this server lets wait; try again later")
        if waiting:
            if task.size > LARGE and task.size + self._bytes() > self._max_bytes:
                self._refuse(f"requests of {self._max_bytes >> 20} MiB wait already; try again later")
            if self._greedy and self._owner(task) in self._greedy:
                self._refuse("too many of the requests that wait are this client's; read some answers first")
            if self.backlog.pace:
                beyond = waiting - self._idle()
                if beyond >= 0 and self.backlog.is_hopeless(beyond + 1, task.deadline - monotonic()):
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

    def _refuse(self, words: str) -> None:
        self.counts["refused"] += 1
        raise Overloaded(words)

    def _bytes(self) -> int:
        return sum(task.size for task in list(self.tasks))

    def look(self, now: float, taken: int, busy: int) -> None:
        """See how fast tasks are taken, and whose they are; called at every tick of the keeper."""
        waiting = len(self.tasks)
        self.backlog.look(now, taken, busy, waiting > 0)
        self.shed_seconds = self.backlog.service if waiting else 0.0
        if self._distrusted:
            self._distrusted = {owner: until for owner, until in self._distrusted.items() if until > now}
        limit = self._max_tasks * GREEDY_SHARE
        if waiting > limit or self._greedy:
            shares = Counter(map(self._owner, list(self.tasks)))
            self._greedy = {owner for owner, count in shares.items() if count > max(1, limit)}

    def sheds(self, task: Task) -> bool:
        """Tell whether a task that was taken has too little time left, while others wait that may have enough."""
        hopeless = bool(self.tasks) and task.deadline - monotonic() < self.shed_seconds
        if hopeless:
            self.counts["shed"] += 1
        return hopeless

    def late(self, now: float) -> list[Task]:
        """Take out and return what is past its deadline."""
        late = [task for task in [*self.tasks, *self.behind] if task.deadline < now]
        return [task for task in late if self._take_out(task, "late")]

    def abandon(self, owner: Hashable) -> None:
        """Forget all tasks of a client that is gone."""
        for task in self._of(owner, [*self.tasks, *self.behind]):
            if self._take_out(task, "abandoned"):
                task.claim()

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
        return False  # a thread took it just now, and will see for itself

    def clear(self) -> list[Task]:
        """Take out and return all."""
        tasks = [*self.tasks, *self.behind]
        self.tasks.clear()
        self.behind.clear()
        return tasks
