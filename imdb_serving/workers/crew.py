"""The crew: N threads and a keeper, for transports whose requests come in through one front.

Threads are leader and followers. An idle thread takes the lead and waits at the front; when requests arrive it takes
one, hands the lead to the next idle thread, has a seat answer and sends the answer. A thread that has finished first
looks for what waits or has just arrived, so under load nobody waits for anybody to be woken.

While all threads are busy nobody leads. Then the keeper, which runs no request, looks at the front every few
milliseconds: it takes in what has arrived, so that its wait is known and bounded, answers what is not for a worker, and
fails what is past its deadline, whether it waits or a thread is at it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from imdb_serving.errors import Overloaded, RemoteFailure, RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.workers.bell import Bell
from imdb_serving.workers.front import Front, Task
from imdb_serving.workers.pool import AT_WORK, LATE_SECONDS, WAITED

log = logging.getLogger(__name__)

TICK_SECONDS = 0.002
QUIET_TICKS = 50
IDLE_SECONDS = 0.1
END_SECONDS = 1.0
MAX_QUEUE = 1000
MAX_QUEUE_BYTES = 256 << 20
LARGE = 1 << 16
"""Bytes of a request from which on the bytes that wait are counted; below, the number of requests bounds them."""


class _Member:
    """A thread of the crew, as the keeper sees it: the task it is at."""

    def __init__(self, work: Callable[[_Member], None], number: int) -> None:
        self.task: Task | None = None
        self.retired = False
        self.thread = threading.Thread(target=work, args=(self,), name=f"crew-{number}", daemon=True)


class Crew:
    """Make it, `start`, and call `keep` until it is time to `drain`; then `stop`."""

    def __init__(
        self,
        front: Front,
        threads: int,
        work: Callable[[Task], Any],
        replace_stuck: Callable[[int | None], None] | None = None,
        *,
        max_queue: int = MAX_QUEUE,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
    ) -> None:
        """Take the front, the number of threads, and what they do with a task.

        `work` returns what the front shall answer, or raises a `ServingError`. `replace_stuck` is told of a thread that
        hangs in it, which is then replaced; without it, `work` is trusted to keep deadlines by itself.
        """
        self._front, self._do, self._replace_stuck = front, work, replace_stuck
        front.submit = self.submit
        self._max_queue, self._max_bytes = max_queue, max_queue_bytes
        self._queue: deque[Task] = deque()
        self._lead = threading.Lock()
        self._leading = False
        self._stopping = False
        self._members = [_Member(self._work, number) for number in range(threads)]
        self._alarm = Bell()
        self._asleep = False
        self._roused = False
        self._quiet = 0
        self.draining = False

    def start(self) -> None:
        """Start the threads."""
        for member in self._members:
            member.thread.start()

    def submit(self, task: Task) -> None:
        """Accept a task; raise `Overloaded` when the queue is full, `ServerUnavailable` while draining."""
        if self.draining:
            raise ServerUnavailable("this server is shutting down; use another one")
        waiting = len(self._queue)
        if waiting >= self._max_queue and waiting >= self._max_queue + self._idle():
            raise Overloaded(f"{waiting} requests wait already, as many as this server lets wait; try again later")
        size = sum(map(len, task.frames))
        if waiting and size > LARGE and size + self._bytes_waiting() > self._max_bytes:
            raise Overloaded(f"requests of {self._max_bytes >> 20} MiB wait already; try again later")
        self._queue.append(task)

    def _idle(self) -> int:
        """Return how many threads will take a task at once."""
        return sum(member.task is None for member in self._members)

    def _bytes_waiting(self) -> int:
        return sum(sum(map(len, task.frames)) for task in list(self._queue))

    def _work(self, member: _Member) -> None:
        while not member.retired and (task := self._next()) is not None:
            member.task = task
            if self._asleep:
                self._alarm.ring()
            self._answer(task)
            member.task = None

    def _answer(self, task: Task) -> None:
        failure: ServingError
        try:
            outcome = self._do(task)
        except ServingError as error:
            failure = error
        except Exception as error:  # a fault of ours must cost this request, and not the thread
            log.exception("request %s failed", task.request_id)
            failure = RemoteFailure(f"{type(error).__name__} in the server; its log says more")
        else:
            if task.claim():
                self._front.answer(task, outcome)
            return
        if task.claim():
            self._front.fail(task, failure)

    def _next(self) -> Task | None:
        """Return the task that has waited longest, waiting for one if need be; None when it is time to end."""
        while not self._stopping:
            if not self._queue:
                self._front.receive()
            task = self._first()
            if task is not None:
                if self._queue and self._leading:
                    self._front.wake()
                return task
            with self._lead:
                self._leading = True
                while not self._queue and not self._stopping:
                    self._front.wait()
                    self._front.receive()
                task = self._first()
                self._leading = False
            if task is not None:
                return task
        return None

    def _first(self) -> Task | None:
        try:
            return self._queue.popleft()
        except IndexError:
            return None

    def keep(self, seconds: float) -> None:
        """Be the keeper for some seconds, or until woken by `rouse`."""
        until = monotonic() + seconds
        self._roused = False
        while (left := until - monotonic()) > 0 and not self._roused:
            self._asleep = self._quiet >= QUIET_TICKS
            self._alarm.wait(min(left, IDLE_SECONDS if self._asleep else TICK_SECONDS))
            self._tick()

    def rouse(self) -> None:
        """Have `keep` return soon; may be called from a signal handler."""
        self._roused = True
        self._alarm.ring()

    def _tick(self) -> None:
        busy = [member.task for member in self._members if member.task is not None]
        self._quiet = 0 if busy or self._queue else self._quiet + 1
        self._front.look_after()
        if len(busy) == len(self._members):
            self._front.receive()
        if self._queue and self._leading:
            self._front.wake()
        now = monotonic()
        for task in list(self._queue):
            if task.deadline < now:
                self._expire(task)
        for member in list(self._members):
            late = member.task
            if late is not None and late.deadline < now:
                if late.claim():
                    self._front.fail(late, RequestTimeout(AT_WORK))
                if self._replace_stuck and now > late.deadline + LATE_SECONDS:
                    self._retire(member)
                    self._replace_stuck(member.thread.ident)

    def _expire(self, task: Task) -> None:
        try:
            self._queue.remove(task)
        except ValueError:
            return  # a thread took it just now, and will see for itself
        if task.claim():
            self._front.fail(task, RequestTimeout(WAITED))

    def _retire(self, member: _Member) -> None:
        """Have another thread take the place of one that hangs; should it ever come back, it ends."""
        log.warning("%s hangs and is replaced", member.thread.name)
        member.retired = True
        self._members.remove(member)
        fresh = _Member(self._work, int(member.thread.name.rpartition("-")[2]))
        self._members.append(fresh)
        fresh.thread.start()

    def drain(self, seconds: float) -> None:
        """Answer all that had arrived, refuse what arrives from now on; what cannot be answered in time is refused."""
        while self._front.receive():
            pass
        self.draining = True
        until = monotonic() + seconds
        while (self._queue or any(member.task for member in self._members)) and monotonic() < until:
            self._front.receive()
            self.keep(TICK_SECONDS)
        self._front.receive()
        late = ServerUnavailable("this server is shutting down and did not come to this request; use another one")
        at_work = [member.task for member in self._members if member.task]
        for unanswered in [*self._queue, *at_work]:
            if unanswered.claim():
                self._front.fail(unanswered, late)
        self._queue.clear()

    def stop(self) -> None:
        """End the threads; one that hangs ends with its process."""
        self._stopping = True
        until = monotonic() + END_SECONDS
        for member in self._members:
            while member.thread.is_alive() and monotonic() < until:
                self._front.wake()
                member.thread.join(0.02)
        self._alarm.close()
