"""The crew: N threads that take requests from one front and answer them. Who may wait is for `waiting.py` to say.

One idle thread leads (`lead.py`): it waits at the front, and the others are parked. When requests arrive the leader
takes one and passes the lead on to a parked thread before it works; a thread that has finished first looks for what
waits or has just arrived, so under load nobody waits for anybody to be woken. Where work is brief, to wake another
thread costs more than the work does: then the leader keeps the lead and answers one request after another. So it is
where nearly all of a request is Python, which only one thread can run at a time, however long it takes (`pace.py`). And
it holds answers back while more requests wait, for each that leaves wakes a client, which takes the processor from the
rest of the requests.

It needs a keeper (`keeper.py`) for whatever happens while all threads are at work.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic, perf_counter_ns, sleep
from typing import Any

from imdb_serving.errors import UNFORESEEN, Overloaded, RemoteFailure, ServingError
from imdb_serving.workers import cores, pace
from imdb_serving.workers.bell import Bell
from imdb_serving.workers.front import Front, Task
from imdb_serving.workers.lead import Lead, Member
from imdb_serving.workers.outcomes import FailedBytes, FailedFrames
from imdb_serving.workers.suspects import WorkersDied
from imdb_serving.workers.waiting import NO_HOPE, Waiting

log = logging.getLogger(__name__)

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


class Crew:
    """Make it, `start` it, have a `Keeper` look after it, and `stop` it."""

    def __init__(
        self,
        front: Front,
        threads: int,
        work: Callable[[Task], Any],
        *,
        trusted: bool = True,
        **limits: int,
    ) -> None:
        """Take the front, the number of threads, what they do with a task, and the `limits` of `Waiting`.

        `work` returns what the front shall answer, or raises a `ServingError`. It is `trusted` when it waits for
        another process and keeps deadlines by itself; then it is never brief.
        """
        self.front, self._do = front, work
        self.waiting = Waiting(front.owner, self._idle, **limits)
        front.submit, front.abandon, front.set_back = self.submit, self.waiting.abandon, self.waiting.set_back
        self._queue = self.waiting.tasks
        self.lead = Lead()
        self._waiting = False
        self._stopping = False
        self._can_be_brief = not trusted
        self._typical_ns = NOT_KNOWN
        self._held: deque[tuple[Task, Any]] = deque()  # answers that the leader holds back
        self.failed: Counter[str] = Counter()  # but for those that a worker told of
        self._failing = threading.Lock()
        self.observed: deque[Any] | None = None
        """Where outcomes are left for whoever looks at them, if anybody does."""

        self.members = [Member(self._work, number) for number in range(threads)]
        self._ever = list(self.members)
        self.alarm = Bell()
        """Rings when a request is taken while the keeper sleeps."""

        self.keeper_sleeps = False
        self.taken = 0
        """How many requests were taken, ever."""

        self.refusing: Callable[[], ServingError | None] | None = None
        """Returns what all requests are refused with, while the server starts or drains."""

    def start(self) -> None:
        """Start the threads."""
        for member in self.members:
            member.thread.start()

    def submit(self, task: Task) -> None:
        """Accept a task; raise `Overloaded` when it may not wait, `ServerUnavailable` while starting or draining."""
        if self.refusing is not None and (refusal := self.refusing()) is not None:
            raise refusal
        self.waiting.admit(task)

    def _idle(self) -> int:
        """Return how many threads will take a task at once."""
        return sum(member.task is None for member in self.members)

    def _work(self, member: Member) -> None:
        if self._can_be_brief:  # it is a worker itself
            cores.pin(cores.of_worker(member.number))
        queue, behind = self._queue, self.waiting.behind
        while not (self._stopping or member.retired):
            try:
                if not queue:
                    self.release_held()
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
        self.release_held()

    def _look_out(self, member: Member) -> None:
        """Look for what has just arrived; if there is nothing, lead until there is, or be parked until called."""
        if self.lead.holder is not member:
            self.front.glance()
            if self._queue or not self.lead.take_or_park(member):
                return
        while not (self._queue or self.waiting.behind or self._stopping or member.retired):
            self._waiting = True
            if not self._queue:  # else it was put there just before, by one that saw nobody wait
                self.front.wait()
            self._waiting = False
            self.front.receive()

    def _take(self, member: Member, task: Task) -> None:  # noqa: C901, PLR0912 - each request pays for a function
        member.task = task
        if self.keeper_sleeps:
            self.alarm.ring()
        if self.waiting.shed_seconds and self.waiting.sheds(task):
            self.fail(task, Overloaded(NO_HOPE))
            member.task = None
            return
        if self.lead.holder is not member:  # somebody else shall see to what waits and what comes meanwhile
            if self._waiting and self._queue:
                self.front.wake()
        elif self._typical_ns > BRIEF_NS:
            self.release_held()  # from when work seemed brief
            self.lead.pass_on(member)
        self.taken += 1
        if looks := self._can_be_brief and not self.taken % LOOK_AT_EVERY:
            begun_ns = perf_counter_ns()
            pace.ask()
        try:
            outcome = self._do(task)
        except WorkersDied as error:
            self.waiting.distrust(self.front.owner(task))
            self.fail(task, error)
        except ServingError as error:
            self.fail(task, error)
        except BaseException:  # a fault, or an exit, must cost this request and not the thread
            log.exception("request %s failed", task.request_id)
            self.fail(task, RemoteFailure(UNFORESEEN))
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
                if self.lead.holder is not member or not self._queue:
                    self.front.answer(task, outcome)
                else:
                    self._held.append((task, outcome))
                    if len(self._held) >= MAX_HELD:
                        self.front.answer_all(self._held)
        member.task = None

    def release_held(self) -> None:
        """Have the answers leave that are held back."""
        if self._held:
            self.front.answer_all(self._held)

    def rouse_leader(self) -> None:
        """Have whoever waits at the front look at what has been taken in."""
        if self._waiting and len(self.waiting):
            self.front.wake()

    @property
    def hung(self) -> int:
        """How many threads were replaced and still hang."""
        return sum(member.retired and member.thread.is_alive() for member in self._ever)

    def replace(self, member: Member) -> None:
        """Have another thread take the place of one that hangs; should it ever come back, it ends."""
        log.warning("%s hangs and is replaced", member.thread.name)
        member.retired = True
        self.lead.pass_on(member)
        self.members.remove(member)
        fresh = Member(self._work, member.number)
        self.members.append(fresh)
        self._ever.append(fresh)
        fresh.thread.start()

    def _learn(self, whole_ns: int) -> None:
        """Learn from a request how long one leaves the interpreter to others: all its time, if nobody knows better."""
        longest_ns = pace.told()
        left_ns = whole_ns if longest_ns is None else longest_ns
        if self._typical_ns == NOT_KNOWN:
            self._typical_ns = float(left_ns)
        else:
            self._typical_ns *= STEP if left_ns > self._typical_ns else 1 / STEP

    def fail(self, task: Task, error: ServingError) -> None:
        """Have a request end with an error, unless it has ended."""
        if task.claim():
            with self._failing:
                self.failed[error.code] += 1
            if log.isEnabledFor(logging.INFO):
                log.info("request failed", extra=self._fields(task, error.code))
            self.front.fail(task, error)

    def _fields(self, task: Task, code: str) -> dict[str, Any]:
        """Return what the log says of a request: never what it holds."""
        waited_ms = (perf_counter_ns() - task.received_ns) / 1e6
        client = self.front.client(task)
        return {"event": "request_failed", "request_id": task.request_id, "client": client, "code": code,
                "ms": round(waited_ms, 3)}  # fmt: skip

    def outcomes(self) -> dict[str, int]:
        """Return how many requests ended how, since the start: `answered`, or a failure's code."""
        total = Counter({"answered": sum(member.answered for member in self._ever)})
        for counts in (self.failed, self.front.counts, *(member.failed for member in self._ever)):
            total.update(dict(counts))
        return dict(total)

    def at_work(self) -> int:
        """Return how many requests are at work."""
        return len(self.members) - self._idle()

    def stop(self) -> None:
        """End the threads; one that hangs ends with its process."""
        self._stopping = True
        until = monotonic() + END_SECONDS
        self.lead.call_all()
        for member in self.members:
            while member.thread.is_alive() and monotonic() < until:
                self.front.wake()
                member.thread.join(0.02)
        self.alarm.close()
