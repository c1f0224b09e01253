"""A pool of workers for servers that have a thread for each request in work, as WSGI servers do.

A thread borrows a worker, asks it, and gives it back. A worker that dies or does not answer in time is replaced in the
background; the other workers go on.
"""

from __future__ import annotations

import functools
import logging
import queue
import select
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from imdb_serving.errors import RemoteFailure, RequestTimeout, ServerStartError
from imdb_serving.transports import wire
from imdb_serving.transports.pool import MAX_FAILED_STARTS
from imdb_serving.transports.workers import MakeHandler, Worker, WorkerKind, await_ready, start_worker

log = logging.getLogger(__name__)

START_SECONDS = 120.0


class BlockingPool:
    """`count` workers, each with an own handler; `ask` may be called from any number of threads."""

    def __init__(self, make_handler: MakeHandler, count: int, kind: WorkerKind, preload: Sequence[str]) -> None:
        """Take everything; nothing is started before `start`."""
        if count < 1:
            raise ServerStartError(f"a server needs at least 1 worker, got {count}")
        self._start_one: Callable[[int], Worker] = functools.partial(
            start_worker, kind=kind, make_handler=make_handler, preload=preload
        )
        self._count = count
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # the most recently used first: its caches are warm
        self._workers: dict[int, Worker] = {}
        self._lock = threading.Lock()
        self._failed_starts = 0
        self._stopping = threading.Event()
        self.on_broken: Callable[[ServerStartError], None] = lambda _: None

    def start(self, timeout: float) -> None:
        """Start all workers and wait until they are ready; raise `ServerStartError` if one is not."""
        for number in range(self._count):
            self._workers[number] = self._start_one(number)
        await_ready(list(self._workers.values()), monotonic() + timeout)
        for worker in self._workers.values():
            self._idle.put(worker)

    def missing(self) -> int:
        """Return how many workers are not there at the moment: dead, and not yet replaced."""
        return self._count - len(self._workers)

    def ask(self, frames: Sequence[wire.Frame], begun_ns: int, deadline: float) -> Sequence[wire.Frame]:
        """Have a worker answer one message before `deadline`; `begun_ns` is where its first stage begins.

        Raises `RequestTimeout` when no worker was free or the one asked did not answer in time, and `RemoteFailure`
        when it died.
        """
        worker = self._borrow(deadline)
        answered = False
        try:
            worker.connection.send_bytes(wire.pack(begun_ns, frames))
            if not _readable(worker, deadline - monotonic()):
                raise RequestTimeout("the deadline passed while a worker was at the request")
            _, answer = wire.unpack(worker.connection.recv_bytes())
            answered = True
        except (EOFError, OSError) as error:
            raise RemoteFailure(f"worker {worker.number} died while working on this request; send it again") from error
        finally:
            if answered:
                self._idle.put(worker)
            else:
                self._replace(worker)
        return answer

    def stop(self) -> None:
        """Stop all workers, side by side."""
        with self._lock:
            self._stopping.set()
            workers = list(self._workers.values())
        for worker in workers:
            worker.connection.close()
        for worker in workers:
            worker.stop()

    def _borrow(self, deadline: float) -> Worker:
        while True:
            try:
                worker = self._idle.get(timeout=max(0.0, deadline - monotonic()))
            except queue.Empty:
                raise RequestTimeout("the deadline passed while the request waited for a worker") from None
            if not _readable(worker, 0):
                return worker
            self._replace(worker)  # nothing was asked of it, so all there is to read is its end

    def _replace(self, worker: Worker) -> None:
        """Bury a worker and start another in its place, in the background."""
        with self._lock:
            if self._stopping.is_set():
                return
            del self._workers[worker.number]
        log.warning("worker %d died or did not answer in time and is replaced", worker.number)
        threading.Thread(target=self._hire, args=(worker,), name=f"hire-{worker.number}", daemon=True).start()

    def _hire(self, gone: Worker) -> None:
        gone.end()
        while not self._stopping.is_set():
            worker = self._start_one(gone.number)
            try:
                await_ready([worker], monotonic() + START_SECONDS)
            except ServerStartError as error:
                log.error("%s", error)  # noqa: TRY400 - the trace is the worker's, not ours
                worker.end()
                self._failed_starts += 1
                if self._failed_starts >= MAX_FAILED_STARTS:
                    self.on_broken(ServerStartError(f"{MAX_FAILED_STARTS} workers in a row failed to start; giving up"))
                    return
                continue
            self._failed_starts = 0
            with self._lock:
                if self._stopping.is_set():
                    worker.end()
                    return
                self._workers[worker.number] = worker
            self._idle.put(worker)
            return


def _readable(worker: Worker, seconds: float) -> bool:
    poller = select.poll()
    poller.register(worker.connection.fileno(), select.POLLIN)
    return bool(poller.poll(max(0.0, seconds) * 1000))
