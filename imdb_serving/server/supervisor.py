"""The supervisor of the workers: it starts N, and replaces those that die, hang or do not start, by one restart policy.

A worker is replaced in the background while the others go on. A try fails when the worker does not start, or dies idle
before it has answered anything; after several failed tries in a row its place is given up, and when the last place is,
the pool is broken. A worker that dies or hangs at a request does not count, because any client could send such
requests, and neither does a shortage of the machine (descriptors, processes, memory). Requests that killed workers are
in quarantine for a while, by their fingerprints: they are refused, and what their senders send waits behind the rest.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from time import monotonic, sleep
from typing import Any

from imdb_serving.config import WorkerKind
from imdb_serving.errors import RemoteFailure, ServerStartError
from imdb_serving.server.worker import STOP_SECONDS, ProcessWorker, ThreadWorker, Worker

QUARANTINE_SECONDS = 60.0
"""How long a request that killed two workers is refused."""

MAX_FINGERPRINTS = 1000
KILLS = 2


class WorkersDied(RemoteFailure):
    """Two workers died while working on one request, or did so lately on the same one."""


class Quarantine:
    """The requests that killed `KILLS` workers lately. Used by all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kills: dict[bytes, tuple[int, float]] = {}  # fingerprint: workers killed, end of the quarantine
        self._deaths: deque[float] = deque(maxlen=MAX_FINGERPRINTS)
        self.active = False
        """True while a request is refused: only then must requests be compared."""

    def note_death(self) -> None:
        """Count a worker that died or hung while working on a request."""
        with self._lock:
            self._deaths.append(monotonic())

    def add(self, fingerprint: bytes, kills: int) -> None:
        """Note that a request killed so many workers (more)."""
        with self._lock:
            known = self._kills.pop(fingerprint, (0, 0.0))[0]
            if len(self._kills) >= MAX_FINGERPRINTS:
                del self._kills[next(iter(self._kills))]
            self._kills[fingerprint] = known + kills, monotonic() + QUARANTINE_SECONDS
            self._forget_old()

    def seconds_left(self, fingerprint: bytes) -> float:
        """Return for how many more seconds a request is refused: 0 when it is not."""
        with self._lock:
            self._forget_old()
            kills, until = self._kills.get(fingerprint, (0, 0.0))
        return until - monotonic() if kills >= KILLS else 0.0

    def is_active(self) -> bool:
        """Tell whether a request is refused now."""
        if self.active:
            with self._lock:
                self._forget_old()
        return self.active

    def _forget_old(self) -> None:
        now = monotonic()
        for fingerprint in [each for each, (_, until) in self._kills.items() if until < now]:
            del self._kills[fingerprint]
        self.active = any(kills >= KILLS for kills, _ in self._kills.values())

    def in_words(self) -> tuple[str, ...]:
        """Return what readiness says of it: nothing while all is well."""
        with self._lock:
            self._forget_old()
            now = monotonic()
            deaths = sum(at > now - QUARANTINE_SECONDS for at in self._deaths)
            refused = sum(kills >= KILLS for kills, _ in self._kills.values())
        words = []
        if deaths:
            words.append(
                f"workers that died or hung while working on a request, last {QUARANTINE_SECONDS:.0f} s: {deaths}"
            )
        if refused:
            words.append(f"requests refused because they killed {KILLS} workers: {refused}")
        return tuple(words)


MAX_TRIES = 5
PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0
PROVEN_SECONDS = 60.0
"""A worker that has lived so long is taken to be a sound one, even if nobody has asked it anything."""


class RestartPolicy:
    """The tries at one place. Used by one thread at a time: whoever replaces the worker of that place."""

    def __init__(self) -> None:
        self.failed = 0
        self.reason = ""
        self._refused = 0

    def ended(self, worker: Worker, how: str, *, at_work: bool) -> None:
        """Note that a worker that had been ready is gone, and whether it was working on a request."""
        self._refused = 0
        if worker.proven or monotonic() > worker.made + PROVEN_SECONDS:
            self.failed = 0
        elif not at_work:
            self._failed_again(f"it {how} before it had answered a request")

    def not_started(self) -> None:
        """Note that a worker could not be started."""
        self._refused = 0
        self._failed_again("it could not be started")

    def _failed_again(self, why: str) -> None:
        self.failed += 1
        self.reason = f"tried {self.failed} times in a row; the last time {why}"

    def refused(self) -> None:
        """Note that the machine gave nothing to start a worker with."""
        self._refused += 1

    @property
    def is_over(self) -> bool:
        """True once there were enough of them."""
        return self.failed >= MAX_TRIES

    @property
    def pause(self) -> float:
        """Seconds to wait before the next try: none when a sound worker died, and longer after each failure."""
        failures = self.failed + self._refused
        return min(PAUSE_SECONDS * 4 ** (failures - 1), MAX_PAUSE_SECONDS) if failures else 0.0


log = logging.getLogger(__name__)

START_SECONDS = 120.0
DEATH_SECONDS = 1.0
"""How long a worker whose conversation has ended may take to be gone as well."""

WATCH_SECONDS = 0.5
WATCH_PAUSE_SECONDS = 0.1

WORKERS: dict[WorkerKind, type[ThreadWorker] | type[ProcessWorker]] = {"thread": ThreadWorker, "process": ProcessWorker}


class Supervisor:
    """`count` workers, each with a handler of its own."""

    def __init__(
        self, make_answer: Callable[[], Any], count: int, kind: WorkerKind, preload: Sequence[str] = ()
    ) -> None:
        """Take everything; nothing is started before `start`."""
        if count < 1:
            raise ServerStartError(f"a server needs at least 1 worker, got {count}")
        self.count, self.kind = count, kind
        self.make_answer, self._preload = make_answer, preload
        self._workers: dict[int, Worker] = {}
        self._idle: deque[Worker] = deque()  # the most recently used first: its caches are warm
        self._changed = threading.Condition()
        self._tries = [RestartPolicy() for _ in range(count)]
        self.given_up: dict[int, str] = {}
        """The numbers of the places that were given up, and why."""

        self.replaced = 0
        self._stopping = False
        self.on_broken: Callable[[ServerStartError], None] = lambda _: None

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of what workers time, as they told when they were ready."""
        return next((worker.stage_names for worker in list(self._workers.values()) if worker.stage_names), ())

    def start(self, timeout: float = START_SECONDS) -> None:
        """Start all workers and wait until they are ready; raise `ServerStartError` if one is not."""
        deadline = monotonic() + timeout
        for number in range(self.count):
            try:
                worker = self._make(number)
            except OSError as error:
                raise ServerStartError(
                    f"cannot start {self.count} workers, only {number}: {error.strerror}; "
                    f"use fewer, or raise the limits (ulimit -n, ulimit -u)"
                ) from error
            with self._changed:
                if not self._stopping:
                    self._workers[number] = worker
                    continue
            worker.end(0.0)
            return
        for worker in list(self._workers.values()):
            worker.await_ready(deadline)
        self._idle.extend(self._workers.values())
        if self.kind == "process":
            threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _watch(self) -> None:
        """Replace workers that die while nobody asks them anything; of one at work, the asker sees the end."""
        orphans: set[ProcessWorker] = set()  # the fork server has died, not they
        while not self._stopping:
            try:
                watched = [worker for worker in list(self._workers.values()) if isinstance(worker, ProcessWorker)]
                workers = {worker.sentinel: worker for worker in watched if worker not in orphans}
                ended = wait(list(workers), WATCH_SECONDS)
            except (OSError, ValueError):  # one was buried just now
                continue
            if not workers:
                sleep(WATCH_SECONDS)
            orphans &= set(watched)
            for worker in [*orphans, *(workers[sentinel] for sentinel in ended)]:  # type: ignore[index]
                if worker in self._idle and not worker.is_dead():
                    orphans.add(worker)
                    continue
                try:
                    self._idle.remove(worker)
                except ValueError:
                    sleep(WATCH_PAUSE_SECONDS)
                else:
                    self.replace(worker)

    def _make(self, number: int) -> Worker:
        return WORKERS[self.kind](number, self.make_answer, self._preload)

    def pids(self) -> dict[str, int]:
        """Return the process ids of the workers that are processes, by name."""
        workers = list(self._workers.values())
        return {f"worker-{worker.number}": worker.pid for worker in workers if isinstance(worker, ProcessWorker)}

    def missing(self) -> int:
        """Return how many workers are not there at the moment: dead, and not yet replaced."""
        return self.count - len(self._workers)

    def stop(self) -> None:
        """Stop all workers, side by side."""
        with self._changed:
            self._stopping = True
            workers, self._workers = list(self._workers.values()), {}
            self._idle.clear()
            self._changed.notify_all()
        if workers:
            with ThreadPoolExecutor(len(workers)) as threads:
                list(threads.map(lambda worker: worker.end(STOP_SECONDS), workers))

    def replace(self, worker: Worker, *, hung: bool = False, at_work: bool = False) -> None:
        """Stop a dead or hung worker and start another, in the background.

        `at_work` says that it died or hung while working on a request: that is never a reason to give its place up.
        """
        with self._changed:
            if self._stopping or self._workers.get(worker.number) is not worker:
                return
            del self._workers[worker.number]
            self.replaced += 1
        threading.Thread(
            target=self._hire, args=(worker, hung, at_work), name=f"hire-{worker.number}", daemon=True
        ).start()

    def _hire(self, gone: Worker, hung: bool, at_work: bool) -> None:
        number, tries = gone.number, self._tries[gone.number]
        how = gone.end(0.0 if hung else DEATH_SECONDS)
        tries.ended(gone, how, at_work=at_work)
        fields = {"event": "worker_replaced", "worker": number, "how": how}
        log.warning("worker %d %s and is replaced", number, how, extra=fields)
        while not tries.is_over:
            if self._stops_within(tries.pause):
                return
            worker = None
            try:
                worker = self._make(number)
                worker.await_ready(monotonic() + START_SECONDS)
            except OSError as error:
                tries.refused()
                log.error("worker %d cannot be started for the moment: %s", number, error)  # noqa: TRY400
            except ServerStartError as error:
                tries.not_started()
                log.error("%s", error)  # noqa: TRY400 - the trace is the worker's, not ours
            else:
                self._add(worker)
                return
            if worker is not None:
                worker.end(0.0)
        self._give_up(number, tries.reason)

    def _stops_within(self, seconds: float) -> bool:
        with self._changed:
            return self._stopping or self._changed.wait_for(lambda: self._stopping, seconds)

    def _add(self, worker: Worker) -> None:
        with self._changed:
            if not self._stopping:
                self._workers[worker.number] = worker
                self._idle.append(worker)
                self._changed.notify()
                return
        worker.end(0.0)

    def _give_up(self, number: int, reason: str) -> None:
        fields = {"event": "worker_given_up", "worker": number, "reason": reason}
        log.error("worker %d is given up: %s", number, reason, extra=fields)
        with self._changed:
            self.given_up[number] = reason
            last = len(self.given_up) == self.count
            self._changed.notify_all()
        if last:
            self.on_broken(ServerStartError("no worker is left, and none can be started; giving up"))
