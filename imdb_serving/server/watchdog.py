"""The watchdog: checks on the server threads every few milliseconds, and runs no request.

While nobody can lead, because all threads are busy or the leader's work takes longer than expected, it passes the lead
on, takes in new requests, so that their wait is known and bounded, answers what needs no worker, and fails requests
that are past their deadline. It sleeps while nothing happens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic, sleep

from imdb_serving.errors import RequestTimeout, ServerUnavailable
from imdb_serving.processes import HeapTrimmer
from imdb_serving.server.request_queue import Task
from imdb_serving.server.server_threads import FAULT_SECONDS, ServerThreads
from imdb_serving.server.worker_pool import AT_WORK, LATE_SECONDS, WAITED

log = logging.getLogger(__name__)

TICK_SECONDS = 0.002
QUIET_TICKS = 50
IDLE_SECONDS = 0.1
MAX_HUNG = 64
"""How many threads may hang in requests before no more are replaced: each keeps its memory until its request ends."""


class Watchdog:
    """Watches the server threads: call `keep` until it is time to `drain`, from one thread."""

    def __init__(self, threads: ServerThreads, replace_stuck: Callable[[int | None], None] | None = None) -> None:
        """Watch these threads; `replace_stuck` is called for one that hangs, and without it none is replaced."""
        self._threads, self._replace_stuck = threads, replace_stuck
        self._leaders_task: Task | None = None  # what the leader was at when we looked last
        self._roused = False
        self._quiet = 0
        self._heap = HeapTrimmer(monotonic())

    def keep(self, seconds: float) -> None:
        """Look after the server threads for some seconds, or until `rouse`."""
        threads, until = self._threads, monotonic() + seconds
        self._roused = False
        while (left := until - monotonic()) > 0 and not self._roused:
            threads.keeper_sleeps = self._quiet >= QUIET_TICKS
            threads.alarm.wait(min(left, IDLE_SECONDS if threads.keeper_sleeps else TICK_SECONDS))
            try:
                self._tick()
            except Exception:  # a fault in the listener must not end the server
                log.exception("the server goes on behind a fault")
                sleep(FAULT_SECONDS)

    def rouse(self) -> None:
        """Have `keep` return soon; may be called from a signal handler."""
        self._roused = True
        self._threads.alarm.wake()

    def drain(self, seconds: float) -> None:
        """Answer all that had arrived, refuse what arrives from now on; what cannot be answered in time is refused."""
        threads = self._threads
        while threads.listener.receive():
            pass
        threads.refusing = lambda: ServerUnavailable("this server is shutting down; use another one")
        until = monotonic() + seconds
        while (len(threads.queue) or threads.at_work()) and monotonic() < until:
            threads.listener.receive()
            self.keep(TICK_SECONDS)
        threads.listener.receive()
        late = ServerUnavailable("this server is shutting down and did not come to this request; use another one")
        at_work = [server_thread.task for server_thread in threads.members if server_thread.task]
        for unanswered in [*threads.queue.clear(), *at_work]:
            threads.fail(unanswered, late)

    def _tick(self) -> None:
        threads = self._threads
        at_work = threads.at_work()
        self._quiet = 0 if at_work or len(threads.queue) else self._quiet + 1
        threads.listener.look_after()
        self._relieve_leader()
        if at_work == len(threads.members):
            threads.listener.receive()
        now = monotonic()
        threads.queue.look(now, threads.taken, at_work)
        for task in threads.queue.late(now):
            threads.fail(task, RequestTimeout(WAITED))
        self._fail_late(now)
        self._heap.tidy(now)
        threads.rouse_leader()

    def _relieve_leader(self) -> None:
        """Pass the lead on when the leader is still at the step it was at when last checked."""
        leader = self._threads.leadership.holder
        if leader is not None and leader.task is not None and leader.task is self._leaders_task:
            self._threads.leadership.pass_on(leader)
            self._threads.release_held()
        self._leaders_task = None if leader is None else leader.task

    def _fail_late(self, now: float) -> None:
        """Fail requests at work that are past their deadline, and replace the threads that hang in them."""
        for server_thread in list(self._threads.members):
            late = server_thread.task
            if late is not None and late.deadline < now:
                self._threads.fail(late, RequestTimeout(AT_WORK))
                if self._replace_stuck and now > late.deadline + LATE_SECONDS and self._threads.hung < MAX_HUNG:
                    self._threads.replace(server_thread)
                    self._replace_stuck(server_thread.thread.ident)
