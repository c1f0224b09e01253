"""A pool of workers for servers that have a thread for each request in work, as WSGI servers do.

A thread borrows a worker, asks it, and gives it back. A worker that dies is replaced in the background, and so is one
that hangs; one that is only late may finish first. The other workers go on.
"""

from __future__ import annotations

import functools
import logging
import queue
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

from imdb_serving.errors import RemoteFailure, RequestTimeout, ServerStartError
from imdb_serving.transports import wire
from imdb_serving.transports.pool import MAX_FAILED_STARTS
from imdb_serving.transports.workers import MakeHandler, Worker, WorkerKind, await_ready, start_worker

log = logging.getLogger(__name__)

START_SECONDS = 120.0
LATE_SECONDS = 2.0
PIPE_SECONDS = 0.05


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
        give_back: Callable[[Worker], None] = self._replace
        try:
            _limit(worker, deadline - monotonic())
            worker.connection.send_bytes(wire.pack(begun_ns, frames))
            if not _readable(worker, deadline - monotonic()):
                give_back = self._let_finish
                raise RequestTimeout("the deadline passed while a worker was at the request")
            _, answer = wire.unpack(worker.connection.recv_bytes())
            give_back = self._idle.put
        except BlockingIOError:
            raise RequestTimeout("the deadline passed while a worker did not take the request") from None
        except (EOFError, OSError) as error:
            raise RemoteFailure(f"worker {worker.number} died while working on this request; send it again") from error
        finally:
            give_back(worker)
        return answer

    def stop(self) -> None:
        """Stop all workers, side by side."""
        with self._lock:
            self._stopping.set()
            workers = list(self._workers.values())
        if workers:
            with ThreadPoolExecutor(len(workers)) as threads:
                list(threads.map(Worker.stop, workers))

    def _borrow(self, deadline: float) -> Worker:
        while (left := deadline - monotonic()) > 0:
            try:
                worker = self._idle.get(timeout=left)
            except queue.Empty:
                break
            if not _readable(worker, 0):
                return worker
            self._replace(worker)  # nothing was asked of it, so all there is to read is its end
        raise RequestTimeout("the deadline passed while the request waited for a worker")

    def _let_finish(self, worker: Worker) -> None:
        """Let a late worker finish in the background; one that does not in `LATE_SECONDS` hangs, and is replaced.

        The deadline is the client's: to end a sound worker for it would have an overload take the workers as well.
        """

        def finish() -> None:
            try:
                _limit(worker, LATE_SECONDS)
                if _readable(worker, LATE_SECONDS):
                    worker.connection.recv_bytes()
                    self._idle.put(worker)
                    return
            except (EOFError, OSError):
                log.debug("worker %d died late", worker.number)
            self._replace(worker)

        threading.Thread(target=finish, name=f"late-{worker.number}", daemon=True).start()

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
            worker = None
            try:
                worker = self._start_one(gone.number)
                await_ready([worker], monotonic() + START_SECONDS)
            except (ServerStartError, OSError) as error:
                log.error("%s", error)  # noqa: TRY400 - the trace is the worker's, not ours
                if worker is not None:
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


def _limit(worker: Worker, seconds: float) -> None:
    """Limit each read and write on the worker's pipe: one that hangs would not even take a large request."""
    limit = max(PIPE_SECONDS, seconds)  # 0 would mean for ever
    timeval = struct.pack("ll", int(limit), int(limit % 1 * 1e6))
    pipe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=worker.connection.fileno())
    try:
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            pipe.setsockopt(socket.SOL_SOCKET, option, timeval)
    finally:
        pipe.detach()


def _readable(worker: Worker, seconds: float) -> bool:
    poller = select.poll()
    poller.register(worker.connection.fileno(), select.POLLIN)
    return bool(poller.poll(max(0.0, seconds) * 1000))
