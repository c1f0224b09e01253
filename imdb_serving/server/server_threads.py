"""The server's threads: N threads that take requests from one listener and answer them (leader and followers).

One idle thread is the leader: it waits at the listener, and the others are parked. When requests arrive the leader
takes one and passes the lead to a parked thread before it works; a thread that has finished first looks for waiting or
new requests, so under load no thread waits to be woken. Where work is brief, waking another thread costs more than the
work: then the leader keeps the lead and answers one request after another. The same holds where nearly all of a request
is Python, which one thread at a time can run (`StepTimer`). The leader also holds answers back while more requests
wait, because each answer wakes a client, which takes the processor from the remaining requests.

A watchdog (`watchdog.py`) handles what happens while all threads are busy. `request_queue.py` decides who may wait.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic, perf_counter_ns, sleep
from typing import Any

from imdb_serving import processes
from imdb_serving.errors import UNFORESEEN, Overloaded, RemoteFailure, ServingError
from imdb_serving.protocol.outcome import FailedFrames
from imdb_serving.server.readiness import Waker
from imdb_serving.server.request_queue import NO_HOPE, Listener, RequestQueue, Task
from imdb_serving.server.supervisor import WorkersDied
from imdb_serving.server.worker import BRIEF_NS, LOOK_AT_EVERY, TypicalStep, step_timer


class ServerThread:
    """A thread of server threads, as the others see it: the task it is at, and how to call it when it is parked."""

    def __init__(self, work: Callable[[ServerThread], None], number: int) -> None:
        self.number = number
        self.task: Any = None
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.retired = False
        self.call = threading.Lock()
        self.call.acquire()
        self.thread = threading.Thread(target=work, args=(self,), name=f"server-thread-{number}", daemon=True)


class Leadership:
    """Held by one member at most; the others park. Who parked last is called first: its caches are warm."""

    def __init__(self) -> None:
        self.holder: ServerThread | None = None
        self.parked: list[ServerThread] = []
        self.is_over = False
        self._turn = threading.Lock()

    def take_or_park(self, server_thread: ServerThread) -> bool:
        """Become the leader if there is none, else park until called; return whether the thread leads now."""
        with self._turn:
            if self.holder is None and not server_thread.retired:
                self.holder = server_thread
                return True
            if self.is_over or server_thread.retired:
                return False
            self.parked.append(server_thread)
        server_thread.call.acquire()
        return self.holder is server_thread

    def pass_on(self, server_thread: ServerThread) -> None:
        """Pass the lead to a parked thread, or to nobody."""
        with self._turn:
            if self.holder is server_thread:
                self.holder = self.parked.pop() if self.parked else None
                if self.holder is not None:
                    self.holder.call.release()

    def call_all(self) -> None:
        """Call all that are parked, and have nobody park any more."""
        with self._turn:
            self.is_over = True
            parked, self.parked = self.parked, []
        for server_thread in parked:
            server_thread.call.release()


log = logging.getLogger(__name__)

FAULT_SECONDS = 0.1
END_SECONDS = 1.0
MAX_HELD = 16
"""How many answers a leader holds back at most."""


class ServerThreads:
    """Make it, `start` it, have a `Watchdog` look after it, and `stop` it."""

    def __init__(
        self,
        listener: Listener,
        threads: int,
        work: Callable[[Task], Any],
        *,
        trusted: bool = True,
        **limits: int,
    ) -> None:
        """Take the listener, the number of threads, what they do with a task, and the `limits` of `RequestQueue`.

        `work` returns what the listener shall answer, or raises a `ServingError`. It is `trusted` when it waits for
        another process and keeps deadlines by itself; then it is never brief.
        """
        self.listener, self._do = listener, work
        self.queue = RequestQueue(listener.owner, self._idle, **limits)
        listener.submit, listener.abandon, listener.set_back = self.submit, self.queue.abandon, self.queue.set_back
        self._queue = self.queue.tasks
        self.leadership = Leadership()
        self._waiting = False
        self._stopping = False
        self._can_be_brief = not trusted
        self._typical = TypicalStep()
        self._held: deque[tuple[Task, Any]] = deque()  # answers that the leader holds back
        self.failed: Counter[str] = Counter()  # but for those that a worker told of
        self._failing = threading.Lock()
        self.observed: deque[Any] | None = None
        """Where outcomes are left for whoever looks at them, if anybody does."""

        self.members = [ServerThread(self._work, number) for number in range(threads)]
        self._ever = list(self.members)
        self.alarm = Waker()
        """Rings when a request is taken while the watchdog sleeps."""

        self.keeper_sleeps = False
        self.taken = 0
        """How many requests were taken, ever."""

        self.refusing: Callable[[], ServingError | None] | None = None
        """Returns what all requests are refused with, while the server starts or drains."""

    def start(self) -> None:
        for server_thread in self.members:
            server_thread.thread.start()

    def submit(self, task: Task) -> None:
        """Accept a task; raise `Overloaded` when it may not wait, `ServerUnavailable` while starting or draining."""
        if self.refusing is not None and (refusal := self.refusing()) is not None:
            raise refusal
        self.queue.admit(task)

    def _idle(self) -> int:
        """Return how many threads will take a task at once."""
        return sum(server_thread.task is None for server_thread in self.members)

    def _work(self, server_thread: ServerThread) -> None:
        if self._can_be_brief:  # it is a worker itself
            processes.pin(processes.cores_of_worker(server_thread.number))
        queue, behind = self._queue, self.queue.behind
        while not (self._stopping or server_thread.retired):
            try:
                if not queue:
                    self.release_held()
                    if not behind:
                        self._look_out(server_thread)
                try:
                    task = queue.popleft() if queue or not behind else behind.popleft()
                except IndexError:
                    continue
                self._take(server_thread, task)
            except Exception:  # a fault in the listener must not cost the thread, and with it maybe the lead
                log.exception("%s goes on behind a fault", server_thread.thread.name)
                server_thread.task, self._waiting = None, False
                sleep(FAULT_SECONDS)  # one that stays shall not take the processor as well
        self.release_held()

    def _look_out(self, server_thread: ServerThread) -> None:
        """Check for arrivals. If there are none, lead until there are, or park until called."""
        if self.leadership.holder is not server_thread:
            self.listener.glance()
            if self._queue or not self.leadership.take_or_park(server_thread):
                return
        while not (self._queue or self.queue.behind or self._stopping or server_thread.retired):
            self._waiting = True
            if not self._queue:  # else it was put there just before, by one that saw nobody wait
                self.listener.wait()
            self._waiting = False
            self.listener.receive()

    def _take(self, server_thread: ServerThread, task: Task) -> None:  # noqa: C901, PLR0912 - each request pays for a function
        server_thread.task = task
        if self.keeper_sleeps:
            self.alarm.wake()
        if self.queue.shed_seconds and self.queue.sheds(task):
            self.fail(task, Overloaded(NO_HOPE))
            server_thread.task = None
            return
        if (
            self.leadership.holder is not server_thread
        ):  # somebody else shall see to what waits and what comes meanwhile
            if self._waiting and self._queue:
                self.listener.wake()
        elif self._typical.nanoseconds > BRIEF_NS:
            self.release_held()  # from when work seemed brief
            self.leadership.pass_on(server_thread)
        self.taken += 1
        if looks := self._can_be_brief and not self.taken % LOOK_AT_EVERY:
            begun_ns = perf_counter_ns()
            step_timer.start()
        try:
            outcome = self._do(task)
        except WorkersDied as error:
            self.queue.distrust(self.listener.owner(task))
            self.fail(task, error)
        except ServingError as error:
            self.fail(task, error)
        except BaseException:  # a fault, or an exit, must cost this request and not the thread
            log.exception("request %s failed", task.request_id)
            self.fail(task, RemoteFailure(UNFORESEEN))
        else:
            if looks:
                self._typical.learn(perf_counter_ns() - begun_ns)
            if type(outcome) is FailedFrames:
                server_thread.failed[outcome.code] += 1
                if log.isEnabledFor(logging.INFO):
                    log.info("request failed", extra=self._fields(task, outcome.code))
            else:
                server_thread.answered += 1
                if self.observed is not None:
                    self.observed.append(outcome)
            if task.open.acquire(False):  # see `try_finish`
                if self.leadership.holder is not server_thread or not self._queue:
                    self.listener.answer(task, outcome)
                else:
                    self._held.append((task, outcome))
                    if len(self._held) >= MAX_HELD:
                        self.listener.answer_all(self._held)
        server_thread.task = None

    def release_held(self) -> None:
        """Have the answers leave that are held back."""
        if self._held:
            self.listener.answer_all(self._held)

    def rouse_leader(self) -> None:
        """Wake the leader for queued requests."""
        if self._waiting and len(self.queue):
            self.listener.wake()

    @property
    def hung(self) -> int:
        """How many threads were replaced and still hang."""
        return sum(server_thread.retired and server_thread.thread.is_alive() for server_thread in self._ever)

    def replace(self, server_thread: ServerThread) -> None:
        """Replace a thread that hangs; should it ever return, it ends."""
        log.warning("%s hangs and is replaced", server_thread.thread.name)
        server_thread.retired = True
        self.leadership.pass_on(server_thread)
        self.members.remove(server_thread)
        fresh = ServerThread(self._work, server_thread.number)
        self.members.append(fresh)
        self._ever.append(fresh)
        fresh.thread.start()

    def fail(self, task: Task, error: ServingError) -> None:
        """End a request with an error, unless it has ended."""
        if task.try_finish():
            with self._failing:
                self.failed[error.code] += 1
            if log.isEnabledFor(logging.INFO):
                log.info("request failed", extra=self._fields(task, error.code))
            self.listener.fail(task, error)

    def _fields(self, task: Task, code: str) -> dict[str, Any]:
        """Return a request's fields for the log, without its content."""
        waited_ms = (perf_counter_ns() - task.received_ns) / 1e6
        client = self.listener.client(task)
        return {"event": "request_failed", "request_id": task.request_id, "client": client, "code": code,
                "ms": round(waited_ms, 3)}  # fmt: skip

    def outcomes(self) -> dict[str, int]:
        """Return how many requests ended how, since the start: `answered`, or a failure's code."""
        total = Counter({"answered": sum(server_thread.answered for server_thread in self._ever)})
        for counts in (self.failed, self.listener.counts, *(server_thread.failed for server_thread in self._ever)):
            total.update(dict(counts))
        return dict(total)

    def dropped(self) -> Counter[str]:
        """Return how many requests no worker worked on, by why; see `RequestQueue.counts`."""
        return self.queue.counts

    def at_work(self) -> int:
        """Return how many requests are in progress."""
        return len(self.members) - self._idle()

    def stop(self) -> None:
        """End the threads; one that hangs ends with its process."""
        self._stopping = True
        until = monotonic() + END_SECONDS
        self.leadership.call_all()
        for server_thread in self.members:
            while server_thread.thread.is_alive() and monotonic() < until:
                self.listener.wake()
                server_thread.thread.join(0.02)
        self.alarm.close()
