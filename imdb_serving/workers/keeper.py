"""The keeper: looks after a crew every few milliseconds, and runs no request.

While nobody can lead, because all threads are at work or the leader is at something longer than it thought, it passes
the lead on, takes in what has arrived, so that its wait is known and bounded, answers what is not for a worker, and
fails what is past its deadline, at work or waiting. It sleeps while nothing happens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic, sleep

from imdb_serving.errors import RequestTimeout, ServerUnavailable
from imdb_serving.workers.crew import FAULT_SECONDS, Crew
from imdb_serving.workers.front import Task
from imdb_serving.workers.heap import Heap
from imdb_serving.workers.pool import AT_WORK, LATE_SECONDS, WAITED

log = logging.getLogger(__name__)

TICK_SECONDS = 0.002
QUIET_TICKS = 50
IDLE_SECONDS = 0.1
MAX_HUNG = 64
"""How many threads may hang in requests before no more are replaced: each keeps its memory until its request ends."""


class Keeper:
    """Call `keep` until it is time to `drain`, from one thread."""

    def __init__(self, crew: Crew, replace_stuck: Callable[[int | None], None] | None = None) -> None:
        """Take the crew, and who is to be told of a thread that hangs; without the latter no thread is replaced."""
        self._crew, self._replace_stuck = crew, replace_stuck
        self._leaders_task: Task | None = None  # what the leader was at when we looked last
        self._roused = False
        self._quiet = 0
        self._heap = Heap(monotonic())

    def keep(self, seconds: float) -> None:
        """Look after the crew for some seconds, or until `rouse`."""
        crew, until = self._crew, monotonic() + seconds
        self._roused = False
        while (left := until - monotonic()) > 0 and not self._roused:
            crew.keeper_sleeps = self._quiet >= QUIET_TICKS
            crew.alarm.wait(min(left, IDLE_SECONDS if crew.keeper_sleeps else TICK_SECONDS))
            try:
                self._tick()
            except Exception:  # a fault in the front must not end the server
                log.exception("the server goes on behind a fault")
                sleep(FAULT_SECONDS)

    def rouse(self) -> None:
        """Have `keep` return soon; may be called from a signal handler."""
        self._roused = True
        self._crew.alarm.ring()

    def drain(self, seconds: float) -> None:
        """Answer all that had arrived, refuse what arrives from now on; what cannot be answered in time is refused."""
        crew = self._crew
        while crew.front.receive():
            pass
        crew.refusing = lambda: ServerUnavailable("this server is shutting down; use another one")
        until = monotonic() + seconds
        while (len(crew.waiting) or crew.at_work()) and monotonic() < until:
            crew.front.receive()
            self.keep(TICK_SECONDS)
        crew.front.receive()
        late = ServerUnavailable("this server is shutting down and did not come to this request; use another one")
        at_work = [member.task for member in crew.members if member.task]
        for unanswered in [*crew.waiting.clear(), *at_work]:
            crew.fail(unanswered, late)

    def _tick(self) -> None:
        crew = self._crew
        at_work = crew.at_work()
        self._quiet = 0 if at_work or len(crew.waiting) else self._quiet + 1
        crew.front.look_after()
        self._relieve_leader()
        if at_work == len(crew.members):
            crew.front.receive()
        now = monotonic()
        crew.waiting.look(now, crew.taken, at_work)
        for task in crew.waiting.late(now):
            crew.fail(task, RequestTimeout(WAITED))
        self._fail_late(now)
        self._heap.tidy(now)
        crew.rouse_leader()

    def _relieve_leader(self) -> None:
        """Pass the lead on when the leader is still at what it was at when we looked last."""
        leader = self._crew.lead.holder
        if leader is not None and leader.task is not None and leader.task is self._leaders_task:
            self._crew.lead.pass_on(leader)
            self._crew.release_held()
        self._leaders_task = None if leader is None else leader.task

    def _fail_late(self, now: float) -> None:
        """Fail what is past its deadline at work, and replace the threads that hang in it."""
        for member in list(self._crew.members):
            late = member.task
            if late is not None and late.deadline < now:
                self._crew.fail(late, RequestTimeout(AT_WORK))
                if self._replace_stuck and now > late.deadline + LATE_SECONDS and self._crew.hung < MAX_HUNG:
                    self._crew.replace(member)
                    self._replace_stuck(member.thread.ident)
