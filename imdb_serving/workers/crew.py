"""The crew: N threads and a keeper, for transports whose requests come in through one front.

One idle thread leads: it waits at the front, and the others are parked. When requests arrive the leader takes one and
passes the lead on to a parked thread before it works; a thread that has finished first looks for what waits or has just
arrived, so under load nobody waits for anybody to be woken. Where work is brief, to wake another thread costs more than
the work does: then the leader keeps the lead and answers one request after another. So it is where nearly all of a
request is Python, which only one thread can run at a time, however long it takes (`pace.py`). And it holds answers back
while more requests wait, for each that leaves wakes a client, which takes the processor from the rest of the requests.

While nobody can lead, because all threads are at work or the leader is at something longer than it thought, the keeper,
which runs no request, helps every few milliseconds: it passes the lead on, takes in what has arrived, so that its wait
is known and bounded, answers what is not for a worker, and fails what is past its deadline, at work or waiting. Who may
wait is for `waiting.py` to say.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic, perf_counter_ns, sleep
from typing import Any

from imdb_serving.errors import UNFORESEEN, Overloaded, RemoteFailure, RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.workers import pace
from imdb_serving.workers.bell import Bell
from imdb_serving.workers.front import Front, Task
from imdb_serving.workers.outcomes import FailedBytes, FailedFrames
from imdb_serving.workers.pool import AT_WORK, LATE_SECONDS, WAITED
from imdb_serving.workers.waiting import NO_HOPE, Waiting

log = logging.getLogger(__name__)

TICK_SECONDS = 0.002
QUIET_TICKS = 50
IDLE_SECONDS = 0.1
FAULT_SECONDS = 0.1
END_SECONDS = 1.0
BRIEF_NS = 70_000
"""A request that leaves the interpreter to others for a shorter time is answered by the leader itself: to wake another
thread takes as long, and then both would wait for Python's lock (docs/performance.md)."""

STEP = 1.05
"""By how much one request moves what is typical, which so follows the median."""

MAX_HELD = 16
"""How many answers a leader holds back at most."""

LOOK_AT_EVERY = 4
NOT_KNOWN = 1e18


class _Member:
    """A thread of the crew, as the others see it: the task it is at, and how to call it when it is parked."""

    def __init__(self, work: Callable[[_Member], None], number: int) -> None:
        self.task: Task | None = None
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.retired = False
        self.call = threading.Lock()
        self.call.acquire()
        self.thread = threading.Thread(target=work, args=(self,), name=f"crew-{number}", daemon=True)


class Crew:
    """Make it, `start`, and call `keep` until it is time to `drain`; then `stop`."""

    def __init__(
        self,
        front: Front,
        threads: int,
        work: Callable[[Task], Any],
        replace_stuck: Callable[[int | None], None] | None = None,
        **limits: int,
    ) -> None:
        """Take the front, the number of threads, what they do with a task, and the `limits` of `Waiting`.

        `work` returns what the front shall answer, or raises a `ServingError`. `replace_stuck` is told of a thread that
        hangs in it, which is then replaced; without it, `work` waits for another process, is trusted to keep deadlines
        by itself, and is never brief.
        """
        self._front, self._do, self._replace_stuck = front, work, replace_stuck
        self.waiting = Waiting(front.owner, self._idle, **limits)
        front.submit, front.abandon, front.set_back = self.submit, self.waiting.abandon, self.waiting.set_back
        self._queue = self.waiting.tasks
        self._turn = threading.Lock()  # held to change who leads and who is parked
        self._leader: _Member | None = None
        self._parked: list[_Member] = []  # the last one first: its caches are warm
        self._waiting = False
        self._stopping = False
        self._can_be_brief = replace_stuck is not None
        self._typical_ns = NOT_KNOWN
        self._held: deque[tuple[Task, Any]] = deque()  # answers that the leader holds back
        self._leaders_task: Task | None = None  # what the leader was at when the keeper looked last
        self.failed: Counter[str] = Counter()  # but for those that a worker told of
        self._failing = threading.Lock()
        self.observed: deque[Any] | None = None
        """Where outcomes are left for whoever looks at them, if anybody does."""

        self._members = [_Member(self._work, number) for number in range(threads)]
        self._ever = list(self._members)
        self._alarm = Bell()
        self._asleep = False
        self._roused = False
        self._quiet = 0
        self._count = 0
        self.draining = False

    def start(self) -> None:
        """Start the threads."""
        for member in self._members:
            member.thread.start()

    def submit(self, task: Task) -> None:
        """Accept a task; raise `Overloaded` when it may not wait, `ServerUnavailable` while draining."""
        if self.draining:
            raise ServerUnavailable("this server is shutting down; use another one")
        self.waiting.admit(task)

    def _idle(self) -> int:
        """Return how many threads will take a task at once."""
        return sum(member.task is None for member in self._members)

    def _work(self, member: _Member) -> None:
        queue, behind = self._queue, self.waiting.behind
        while not (self._stopping or member.retired):
            try:
                if not queue:
                    if self._held:
                        self._front.answer_all(self._held)
                    if not behind:
                        self._look_out(member)
                try:
                    task = queue.popleft() if queue or not behind else behind.popleft()
                except IndexError:
                    continue
                self._take(member, task)
            except Exception:  # a fault in the front must not cost the thread, and with it maybe the lead
                log.exception("%s goes on behind a fault", member.thread.name)
                member.task, self._waiting = None, False
                sleep(FAULT_SECONDS)  # one that stays shall not take the processor as well
        if self._held:
            self._front.answer_all(self._held)

    def _look_out(self, member: _Member) -> None:
        """Look for what has just arrived; if there is nothing, lead until there is, or be parked until called."""
        if self._leader is not member:
            self._front.glance()
            if self._queue or not self._lead_or_park(member):
                return
        while not (self._queue or self.waiting.behind or self._stopping or member.retired):
            self._waiting = True
            if not self._queue:  # else it was put there just before, by one that saw nobody wait
                self._front.wait()
            self._waiting = False
            self._front.receive()

    def _lead_or_park(self, member: _Member) -> bool:
        """Become the leader if there is none, else park until called; tell whether the member leads now."""
        with self._turn:
            if self._leader is None and not member.retired:
                self._leader = member
                return True
            if self._stopping or member.retired:
                return False
            self._parked.append(member)
        member.call.acquire()
        return self._leader is member

    def _pass_lead(self, member: _Member) -> None:
        """Have a parked thread lead instead of this one, or nobody."""
        with self._turn:
            if self._leader is member:
                self._leader = self._parked.pop() if self._parked else None
                if self._leader is not None:
                    self._leader.call.release()

    def _take(self, member: _Member, task: Task) -> None:  # noqa: C901, PLR0912 - each request pays for a function
        member.task = task
        if self._asleep:
            self._alarm.ring()
        if self.waiting.shed_seconds and self.waiting.sheds(task):
            self._fail(task, Overloaded(NO_HOPE))
            member.task = None
            return
        if self._leader is not member:  # somebody else shall see to what waits and what comes meanwhile
            if self._waiting and self._queue:
                self._front.wake()
        elif self._typical_ns > BRIEF_NS:
            if self._held:  # from when work seemed brief
                self._front.answer_all(self._held)
            self._pass_lead(member)
        self._count += 1
        if looks := self._can_be_brief and not self._count % LOOK_AT_EVERY:
            begun_ns = perf_counter_ns()
            pace.ask()
        try:
            outcome = self._do(task)
        except ServingError as error:
            self._fail(task, error)
        except Exception:  # a fault of ours must cost this request, and not the thread
            log.exception("request %s failed", task.request_id)
            self._fail(task, RemoteFailure(UNFORESEEN))
        else:
            if looks:
                self._learn(perf_counter_ns() - begun_ns)
            if type(outcome) is FailedFrames or type(outcome) is FailedBytes:
                member.failed[outcome.code] += 1
                if log.isEnabledFor(logging.INFO):
                    log.info("request failed", extra=self._fields(task, outcome.code))
            else:
                member.answered += 1
                if self.observed is not None:
                    self.observed.append(outcome)
            if task.open.acquire(False):  # see `claim`
                if self._leader is not member or not self._queue:
                    self._front.answer(task, outcome)
                else:
                    self._held.append((task, outcome))
                    if len(self._held) >= MAX_HELD:
                        self._front.answer_all(self._held)
        member.task = None

    def _learn(self, whole_ns: int) -> None:
        """Learn from a request how long one leaves the interpreter to others: all its time, if nobody knows better."""
        longest_ns = pace.told()
        left_ns = whole_ns if longest_ns is None else longest_ns
        if self._typical_ns == NOT_KNOWN:
            self._typical_ns = float(left_ns)
        else:
            self._typical_ns *= STEP if left_ns > self._typical_ns else 1 / STEP

    def _fail(self, task: Task, error: ServingError) -> None:
        if task.claim():
            with self._failing:
                self.failed[error.code] += 1
            if log.isEnabledFor(logging.INFO):
                log.info("request failed", extra=self._fields(task, error.code))
            self._front.fail(task, error)

    def _fields(self, task: Task, code: str) -> dict[str, Any]:
        """Return what the log says of a request: never what it holds."""
        waited_ms = (perf_counter_ns() - task.received_ns) / 1e6
        client = self._front.client(task)
        return {"event": "request_failed", "request_id": task.request_id, "client": client, "code": code,
                "ms": round(waited_ms, 3)}  # fmt: skip

    def outcomes(self) -> dict[str, int]:
        """Return how many requests ended how, since the start: `answered`, or a failure's code."""
        total = Counter({"answered": sum(member.answered for member in self._ever)})
        for counts in (self.failed, self._front.counts, *(member.failed for member in self._ever)):
            total.update(dict(counts))
        return dict(total)

    def at_work(self) -> int:
        """Return how many requests are at work."""
        return len(self._members) - self._idle()

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
        self._quiet = 0 if busy or len(self.waiting) else self._quiet + 1
        self._front.look_after()
        leader = self._leader
        if leader is not None and leader.task is not None and leader.task is self._leaders_task:
            self._pass_lead(leader)
            if self._held:
                self._front.answer_all(self._held)
        self._leaders_task = None if leader is None else leader.task
        if len(busy) == len(self._members):
            self._front.receive()
        now = monotonic()
        self.waiting.look(now, self._count, len(busy))
        for task in self.waiting.late(now):
            self._fail(task, RequestTimeout(WAITED))
        for member in list(self._members):
            late = member.task
            if late is not None and late.deadline < now:
                self._fail(late, RequestTimeout(AT_WORK))
                if self._replace_stuck and now > late.deadline + LATE_SECONDS:
                    self._retire(member)
                    self._replace_stuck(member.thread.ident)
        if self._waiting and len(self.waiting):  # what all this has taken in
            self._front.wake()

    def _retire(self, member: _Member) -> None:
        """Have another thread take the place of one that hangs; should it ever come back, it ends."""
        log.warning("%s hangs and is replaced", member.thread.name)
        member.retired = True
        self._pass_lead(member)
        self._members.remove(member)
        fresh = _Member(self._work, int(member.thread.name.rpartition("-")[2]))
        self._members.append(fresh)
        self._ever.append(fresh)
        fresh.thread.start()

    def drain(self, seconds: float) -> None:
        """Answer all that had arrived, refuse what arrives from now on; what cannot be answered in time is refused."""
        while self._front.receive():
            pass
        self.draining = True
        until = monotonic() + seconds
        while (len(self.waiting) or any(member.task for member in self._members)) and monotonic() < until:
            self._front.receive()
            self.keep(TICK_SECONDS)
        self._front.receive()
        late = ServerUnavailable("this server is shutting down and did not come to this request; use another one")
        at_work = [member.task for member in self._members if member.task]
        for unanswered in [*self.waiting.clear(), *at_work]:
            self._fail(unanswered, late)

    def stop(self) -> None:
        """End the threads; one that hangs ends with its process."""
        self._stopping = True
        until = monotonic() + END_SECONDS
        with self._turn:
            parked, self._parked = self._parked, []
        for member in parked:
            member.call.release()
        for member in self._members:
            while member.thread.is_alive() and monotonic() < until:
                self._front.wake()
                member.thread.join(0.02)
        self._alarm.close()
