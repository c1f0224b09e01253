"""A pool of workers: waiting requests in, answers out, and no worker idle while a request waits.

The pool is driven by its server's event loop, in one thread: the loop polls the workers' descriptors and calls
`collect` for those that are readable, then `dispatch`. It knows pipes and packed messages, and no socket.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from imdb_serving.errors import RemoteFailure, RequestTimeout, ServerStartError
from imdb_serving.transports import wire
from imdb_serving.transports.workers import MakeHandler, Worker, WorkerKind, await_ready, read_ready, start_worker

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
READABLE = 1  # POLLIN, as select.poll and ZeroMQ both number it


@dataclass(frozen=True, slots=True)
class Job:
    """A received request; `route` is whatever its server needs to send the answer back."""

    route: tuple[bytes, ...]
    request_id: int
    received_ns: int
    deadline: float
    frames: Sequence[wire.Frame]


Done = tuple[Job, Sequence[wire.Frame]]


class Watch(Protocol):
    """Where the pool registers the descriptors it wants polled for reading."""

    def register(self, descriptor: int, flags: int, /) -> None:
        """Poll `descriptor` from now on."""

    def unregister(self, descriptor: int, /) -> None:
        """Poll `descriptor` no more."""


class WorkerPool:
    """`count` workers, each with an own handler; a worker that dies is replaced."""

    def __init__(self, make_handler: MakeHandler, count: int, kind: WorkerKind, preload: Sequence[str]) -> None:
        """Take everything; nothing is started before `start`."""
        if count < 1:
            raise ServerStartError(f"a server needs at least 1 worker, got {count}")
        self._make_handler = make_handler
        self._count = count
        self._kind: WorkerKind = kind
        self._preload = preload
        self._workers: dict[int, Worker] = {}
        self._working: dict[int, Job] = {}
        self._idle: list[Worker] = []
        self._queue: deque[Job] = deque()
        self._failed_starts = 0

    def start(self, timeout: float) -> None:
        """Start all workers and wait until they are ready; raise `ServerStartError` if one is not."""
        for number in range(self._count):
            self._add(number)
        await_ready(list(self._workers.values()), monotonic() + timeout)
        self._idle = list(self._workers.values())

    def watch(self, poller: Watch) -> None:
        """Register all workers with the loop's poller, and from now on those that replace them."""
        self._poller = poller
        for descriptor in self._workers:
            poller.register(descriptor, READABLE)

    @property
    def busy(self) -> bool:
        """True while a request waits or is worked on."""
        return bool(self._queue or self._working)

    def submit(self, job: Job) -> None:
        """Accept a request; the next `dispatch` gives it to a worker, or a later one."""
        self._queue.append(job)

    def dispatch(self) -> Iterator[Done]:
        """Give waiting requests to idle workers, the most recently used first: its caches are warm.

        Yields requests that will not be worked on, with the failure to send back.
        """
        while self._queue and self._idle:
            job = self._queue.popleft()
            if monotonic() > job.deadline:
                late = RequestTimeout("the deadline passed while the request waited for a worker")
                yield job, wire.encode_failure(late, job.request_id)
                continue
            worker = self._idle.pop()
            descriptor = worker.connection.fileno()
            self._working[descriptor] = job
            try:
                worker.connection.send_bytes(wire.pack(job.received_ns, job.frames))
            except OSError:
                yield from self._replace(descriptor)

    def collect(self, descriptor: int) -> Iterator[Done]:
        """Read what the worker at `descriptor` has to say; yields the request it finished, if any."""
        worker = self._workers.get(descriptor)
        if worker is None:
            return
        try:
            if not worker.ready:
                read_ready(worker)
                self._failed_starts = 0
            else:
                _, frames = wire.unpack(worker.connection.recv_bytes())
                yield self._working.pop(descriptor), frames
            self._idle.append(worker)
        except (EOFError, OSError, ServerStartError) as error:
            if isinstance(error, ServerStartError):
                self._failed_starts += 1
                log.error("%s", error)  # noqa: TRY400 - the trace is the worker's, not ours
            yield from self._replace(descriptor)

    def stop(self) -> None:
        """Stop all workers, side by side."""
        for worker in self._workers.values():
            worker.connection.close()
        for worker in self._workers.values():
            worker.stop()
        self._workers.clear()

    def _add(self, number: int) -> Worker:
        worker = start_worker(number, self._kind, self._make_handler, self._preload)
        self._workers[worker.connection.fileno()] = worker
        return worker

    def _replace(self, descriptor: int) -> Iterator[Done]:
        """Bury a dead worker, fail its request, and start another one in its place."""
        worker = self._workers.pop(descriptor)
        self._poller.unregister(descriptor)
        if worker in self._idle:
            self._idle.remove(worker)
        worker.stop()
        log.warning("worker %d died and is replaced", worker.number)
        job = self._working.pop(descriptor, None)
        if job is not None:
            error = RemoteFailure(f"worker {worker.number} died while working on this request; send it again")
            yield job, wire.encode_failure(error, job.request_id)
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise ServerStartError(f"{self._failed_starts} workers in a row failed to start; giving up")
        self._poller.register(self._add(worker.number).connection.fileno(), READABLE)
