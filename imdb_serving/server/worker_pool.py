"""The worker pool: a caller gets an idle worker, the most recently used one, and an answer by the deadline.

`ask` may be called from any thread; each call has a worker to itself. A request whose worker dies goes to another one,
once; that is safe, because a prediction changes nothing. A request that killed two workers is refused for a while, and
meanwhile the last worker is kept for requests that are not suspected. A worker that is only late may finish first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import get_ident
from time import monotonic, sleep
from typing import Any

from imdb_serving.config import WorkerKind
from imdb_serving.errors import UNFORESEEN, RemoteFailure, RequestTimeout, ServerUnavailable
from imdb_serving.messages import ServerInfo
from imdb_serving.protocol.framing import fingerprint_of
from imdb_serving.server.channel import NotSent
from imdb_serving.server.request_queue import Task
from imdb_serving.server.supervisor import KILLS, Quarantine, Supervisor, WorkersDied
from imdb_serving.server.worker import MakeAnswer, ThreadWorker, Worker

log = logging.getLogger(__name__)

LATE_SECONDS = 2.0
SUSPECT_SECONDS = 0.02
"""How often a suspect that waits looks whether there are workers enough for it."""

WAITED = "the deadline passed while the request waited for a worker"
AT_WORK = "the deadline passed while a worker was at the request"
DIED = "two workers died while working on this request; the server's log says how"
REFUSED = "two workers died while working on this request lately; it is not given to another for {:.0f} s"
NONE_LEFT = "no worker is left, and none can be started; use another server"


class WorkerPool(Supervisor):
    """A supervisor that can be asked."""

    def __init__(
        self,
        make_answer: MakeAnswer,
        count: int,
        kind: WorkerKind,
        preload: Sequence[str] = (),
        fingerprint: Callable[[Any], bytes] = fingerprint_of,
    ) -> None:
        """Take everything; nothing is started before `start`.

        `fingerprint` returns what is equal for two messages that ask the same.
        """
        super().__init__(make_answer, count, kind, preload)
        self._fingerprint = fingerprint
        self.quarantine = Quarantine()
        self._waiting = self._suspects = 0
        self.asked_again = 0
        """How many requests were given to another worker."""

    def ask(self, received_ns: int, message: Any, deadline: float, *, suspect: bool = False) -> Any:
        """Have a worker answer one message before `deadline` (monotonic seconds).

        A `suspect` comes from a client whose requests killed workers. Raises `RequestTimeout` when no worker was free
        or the one asked did not answer in time, `WorkersDied` when two died at it, and `ServerUnavailable` when no
        worker will ever be there again.
        """
        if monotonic() >= deadline:
            raise RequestTimeout(WAITED)
        if self.quarantine.active and (left := self.quarantine.seconds_left(self._fingerprint(message))):
            raise WorkersDied(REFUSED.format(max(1.0, left)))
        try:
            return self._ask_one(received_ns, message, deadline, suspect)
        except WorkersDied:
            with self._changed:
                self.asked_again += 1
        try:
            return self._ask_one(received_ns, message, deadline, suspect=True)
        except WorkersDied:
            self.quarantine.add(self._fingerprint(message), KILLS)
            raise

    def _ask_one(self, received_ns: int, message: Any, deadline: float, suspect: bool) -> Any:
        if suspect:
            self._await_spare(deadline)
        try:
            return self._ask_worker(self._take(deadline), received_ns, message, deadline)
        finally:
            if suspect:
                with self._changed:
                    self._suspects -= 1

    def _ask_worker(self, worker: Worker, received_ns: int, message: Any, deadline: float) -> Any:
        try:
            answer = worker.ask(received_ns, message, deadline)
        except TimeoutError:
            self._let_finish(worker, message)
            raise RequestTimeout(AT_WORK) from None
        except NotSent as error:
            log.error("a request could not be passed to worker %d: %s", worker.number, error)  # noqa: TRY400
            self._give_back(worker)
            raise RemoteFailure(UNFORESEEN) from error
        except (EOFError, OSError) as error:
            self.quarantine.note_death()
            self.replace(worker, at_work=True)
            raise WorkersDied(DIED) from error
        except BaseException:  # what the worker said cannot be read
            self.replace(worker, hung=True, at_work=True)
            raise
        self._give_back(worker)
        return answer

    def call(self, task: Task) -> Any:
        """Have the calling thread answer a task, for workers that are threads.

        The same as `ask` without its extra steps, which cost more than a small model: with as many server threads as
        workers, a worker is idle whenever a thread asks.
        """
        if monotonic() >= task.deadline:
            raise RequestTimeout(WAITED)
        try:
            worker: ThreadWorker = self._idle.pop()  # type: ignore[assignment]  # of all kinds only this one is asked here
        except IndexError:
            return self.ask(task.received_ns, task.message, task.deadline)
        worker.thread = get_ident()
        try:
            return worker.answer(task.received_ns, task.message)
        finally:
            worker.thread = 0
            if worker is self._workers.get(worker.number):
                self._idle.append(worker)

    def ask_for(self, task: Task) -> Any:
        """Have any worker answer a task; see `ask`."""
        return self.ask(task.received_ns, task.message, task.deadline, suspect=task.suspect)

    def _await_spare(self, deadline: float) -> None:
        """Count a suspect as at work, once that leaves a worker to the others.

        That is asked only while a request is refused for having killed workers, and where there is more than one.
        """
        while True:
            with self._changed:
                spare = len(self._workers) - self._suspects - 1
                if spare >= min(1, self.count - len(self.given_up) - 1) or not self.quarantine.active:
                    self._suspects += 1
                    return
            if (left := deadline - monotonic()) <= 0:
                raise RequestTimeout(WAITED)
            sleep(min(left, SUSPECT_SECONDS))  # and not on the condition, whose signals are for the others

    def _take(self, deadline: float) -> Worker:
        """Return an idle worker, waiting for one until the deadline."""
        while True:
            try:
                worker = self._idle.pop()
            except IndexError:
                if len(self.given_up) == self.count:
                    raise ServerUnavailable(NONE_LEFT) from None
                if not self._await_idle(deadline - monotonic()):
                    raise RequestTimeout(WAITED) from None
                continue
            if not worker.is_dead():
                return worker
            self.replace(worker)

    def _await_idle(self, seconds: float) -> bool:
        with self._changed:
            self._waiting += 1
            try:
                return bool(self._idle) or (seconds > 0 and self._changed.wait(seconds))
            finally:
                self._waiting -= 1

    def _give_back(self, worker: Worker) -> None:
        if self._workers.get(worker.number) is not worker:
            return  # it came back after all, when another had its place
        self._idle.append(worker)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def _let_finish(self, worker: Worker, message: Any) -> None:
        """Let a late worker finish in the background; one that does not in `LATE_SECONDS` hangs, and is replaced.

        The deadline is the client's: to end a sound worker for it would have an overload take the workers as well.
        """

        def finish() -> None:
            if worker.settles(LATE_SECONDS):
                self._give_back(worker)
            else:
                self.quarantine.note_death()
                self.quarantine.add(self._fingerprint(message), 1)
                self.replace(worker, hung=True, at_work=True)

        threading.Thread(target=finish, name=f"late-{worker.number}", daemon=True).start()

    def replace_stuck(self, thread: int | None) -> None:
        """Replace the worker in which a thread, given by its identifier, hangs."""
        for worker in list(self._workers.values()):
            if isinstance(worker, ThreadWorker) and worker.thread == thread:
                self.quarantine.note_death()
                self.replace(worker, hung=True, at_work=True)


def server_info(info: ServerInfo, pool: WorkerPool) -> ServerInfo:
    """Return what a server says of itself now; raise `ServerUnavailable` while no worker is there to answer."""
    ready, given_up = pool.count - pool.missing(), [f"worker {n}: {why}" for n, why in sorted(pool.given_up.items())]
    warnings = pool.quarantine.in_words()
    if not ready:
        why = "; ".join([*(given_up or [f"{pool.count} being replaced"]), *warnings])
        raise ServerUnavailable(f"no worker is ready: {why}")
    return replace(info, ops=pool.stage_names, workers_ready=ready, given_up=tuple(given_up), warnings=warnings)
