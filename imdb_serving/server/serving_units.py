"""The units of a server: threads, or processes of some threads each, replaced when they die, by one restart policy.

A process is started from the fork server, which has the engine loaded, so that it starts at once and shares memory.
"""

from __future__ import annotations

import array
import logging
import os
import queue
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

from imdb_serving import processes
from imdb_serving.config import WorkerKind
from imdb_serving.errors import ServerStartError
from imdb_serving.messages import ServerInfo
from imdb_serving.protocol.outcome import CODES
from imdb_serving.server import serving_process
from imdb_serving.server.handover import KIND, Handover
from imdb_serving.server.ready_set import EpollReadySet, ReadySet
from imdb_serving.server.scoreboard import OUTCOMES, Row, Scoreboard
from imdb_serving.server.serving_process import BEGIN, CLOSE, MAX_TOLD, OPEN, READY, RELEASE, TOLD, MakeCarrier
from imdb_serving.server.stream_worker import StreamWorker
from imdb_serving.server.supervisor import Supervisor
from imdb_serving.server.worker import ForkedProcess, not_ready, nothing_yet

log = logging.getLogger(__name__)

END_SECONDS = 1.0
"""How long a thread may take to end that does not hang."""


class ThreadUnit:
    """One worker, a thread of the supervisor's process. What it is made of is made in a thread of its own."""

    pid = 0

    def __init__(self, number: int, make: MakeCarrier, rows: Sequence[Row], start: Callable[..., StreamWorker]) -> None:
        """Begin to make the handler; `start` makes the worker, whose thread begins once it is ready."""
        self.number, self.made, self.rows = number, monotonic(), list(rows)
        self.stage_names: tuple[str, ...] = ()
        self._before = _answered(self.rows)
        self._make, self._start, self._error = make, start, ""
        self._worker: StreamWorker | None = None
        self.thread: threading.Thread | None = None
        self._maker = threading.Thread(target=self._prepare, name=f"worker-{number}", daemon=True)
        self._maker.start()

    def _prepare(self) -> None:
        try:
            carrier = self._make()
            self.stage_names = tuple(getattr(carrier, "stage_names", ()))
            self._worker = self._start(self.rows[0], carrier, self.number)
        except Exception as error:
            self._error = f"{type(error).__name__}: {error}"

    def await_ready(self, deadline: float) -> None:
        """Wait until it can answer; raise `ServerStartError` with the reason when it cannot, or not in time."""
        self._maker.join(max(0.0, deadline - monotonic()))
        if self._worker is None:
            raise ServerStartError(f"worker {self.number} {not_ready(self._error)}")

    def begin(self) -> None:
        """Have it take requests."""
        assert self._worker is not None  # noqa: S101 - it is ready
        cores = processes.cores_of_worker(self.number)
        run = self._worker.run

        def pinned() -> None:
            processes.pin(cores)
            run()

        self.thread = threading.Thread(target=pinned, name=f"server-thread-{self.number}", daemon=True)
        self.thread.start()

    def release_held(self) -> None:
        """Have the answers leave that it holds back."""
        if self._worker is not None:
            self._worker.release_held()

    @property
    def is_running(self) -> bool:
        """Whether its thread has not ended."""
        return self.thread is not None and self.thread.is_alive()

    @property
    def proven(self) -> bool:
        """Whether it has answered a request."""
        return _answered(self.rows) > self._before

    def is_dead(self) -> bool:
        """Return False: a thread does not die alone."""
        return False

    def retire(self) -> None:
        """Have it end behind the request it is at."""
        if self._worker is not None:
            self._worker.is_over = True

    def end(self, seconds: float) -> str:
        """Say how it ended; one that hangs is not waited for."""
        self.retire()
        if self.thread is not None:
            self.thread.join(min(seconds, END_SECONDS))
        return "hung" if self.is_running else "ended"


class ProcessUnit(ForkedProcess):
    """One process with as many worker threads as it has rows."""

    def __init__(
        self,
        number: int,
        make: MakeCarrier,
        rows: Sequence[tuple[int, Row]],
        shared: tuple[Scoreboard, EpollReadySet, Handover],
        preload: Sequence[str],
    ) -> None:
        """Start it."""
        self.number, self.made, self.rows = number, monotonic(), [row for _, row in rows]
        self.stage_names: tuple[str, ...] = ()
        self._before = _answered(self.rows)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, KIND)
        board, ready, handover = shared
        files = [board.file, ready.descriptor, handover.requests.fileno(), handover.reporter.fileno()]
        socket.send_fds(self.control, [b"shared"], files)
        numbers = [at for at, _ in rows]
        cores = [processes.cores_of_worker(at) for at in numbers]
        sizes = board.workers, board.descriptors, files[2]
        preload = [serving_process.__name__, *preload]
        pair = self.control, theirs
        super().__init__(f"worker-{number}", pair, preload, serving_process.serve, make, numbers, sizes, cores)
        self._untold: deque[tuple[bytes, int]] = deque()

    def await_ready(self, deadline: float) -> None:
        """Wait until it can answer; raise `ServerStartError` with the reason when it cannot, or not in time."""
        self.control.settimeout(max(0.001, deadline - monotonic()))
        try:
            said = self.control.recv(MAX_TOLD)
        except TimeoutError:
            raise ServerStartError(f"worker {self.number} {not_ready('')}") from None
        except OSError as error:
            raise ServerStartError(f"worker {self.number} died while starting") from error
        if not said:
            raise ServerStartError(f"worker {self.number} died while starting")
        words = said[1:].decode("utf-8", "replace")
        if said[0] != READY:
            raise ServerStartError(f"worker {self.number} {not_ready(words)}")
        self.stage_names = tuple(words.split("\n")) if words else ()
        self.control.setblocking(False)

    def begin(self) -> None:
        """Have its threads take requests."""
        self._tell(TOLD.pack(BEGIN, 0, 0), -1)

    @property
    def proven(self) -> bool:
        """Whether it has answered a request."""
        return _answered(self.rows) > self._before

    def is_dead(self) -> bool:
        """Tell whether the process has ended."""
        return not self.process.is_alive()

    def retire(self) -> None:
        """Do nothing: it ends when `end` closes the conversation."""

    def opened(self, number: int, generation: int) -> None:
        """Give it a connection, which `opened` or `closed` may take some time to tell."""
        self._tell(TOLD.pack(OPEN, number, generation), number)

    def closed(self, number: int, generation: int) -> None:
        """Have it close a connection."""
        self._tell(TOLD.pack(CLOSE, number, generation), -1)

    def release(self) -> None:
        """Have all its threads take requests: the first is at a long one."""
        self._tell(TOLD.pack(RELEASE, 0, 0), -1)

    def _tell(self, words: bytes, descriptor: int) -> None:
        self._untold.append((words, os.dup(descriptor) if descriptor >= 0 else -1))
        self.flush()

    def flush(self) -> None:
        """Tell what it has not been told yet, as far as it listens."""
        while self._untold:
            words, descriptor = self._untold[0]
            try:
                if descriptor >= 0:
                    rights = array.array("i", [descriptor])
                    self.control.sendmsg([words], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                else:
                    self.control.send(words)
            except BlockingIOError:
                return
            except OSError:  # it has died
                self._forget_untold()
                return
            self._untold.popleft()
            if descriptor >= 0:
                os.close(descriptor)

    def _forget_untold(self) -> None:
        for _, descriptor in self._untold:
            if descriptor >= 0:
                os.close(descriptor)
        self._untold.clear()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def end(self, seconds: float) -> str:
        """End it; what has not ended by itself in so many seconds is killed. Return how it ended."""
        self._forget_untold()
        self.control.close()
        return self.join(seconds)


def _answered(rows: Sequence[Row]) -> int:
    return sum(row.cells[OUTCOMES + at] for row in rows for at in range(len(CODES)))


Unit = ThreadUnit | ProcessUnit


class ServingUnits(Supervisor):
    """`workers` workers in `count` processes, or, if that is 0, in threads of this one."""

    def __init__(self, make: Callable[[], Any], workers: int, count: int, preload: Sequence[str] = ()) -> None:
        """Take everything; nothing is started before `start`."""
        kind: WorkerKind = "process" if count else "thread"
        super().__init__(make, count or workers, kind, preload)
        if workers < self.count:
            raise ServerStartError(f"{count} processes need as many workers, got {workers}; use fewer processes")
        self.workers = workers
        self.newcomers: queue.SimpleQueue[Unit] = queue.SimpleQueue()
        self.notify: Callable[[], None] = lambda: None
        self._free: list[int] = []
        self._last: dict[int, tuple[list[int], Unit | None]] = {}  # of each place: the rows, and who has them

    def share(
        self,
        shared: tuple[Scoreboard, ReadySet, Handover],
        start: Callable[[Row, Any, int], StreamWorker],
    ) -> None:
        """Take what all units share, and what makes a worker that is a thread; before `start`."""
        self._shared, self._start_worker = shared, start
        self._free = list(range(shared[0].workers))

    def threads_of(self, number: int) -> int:
        """Return how many workers a unit has: all of them, divided as evenly as can be."""
        if self.kind == "thread":
            return 1
        return self.workers // self.count + (number < self.workers % self.count)

    def _make(self, number: int) -> Any:
        board = self._shared[0]
        with self._changed:
            last, self._last[number] = self._last.get(number, ([], None)), ([], None)
            if not (isinstance(last[1], ThreadUnit) and last[1].is_running):
                self._free += last[0]
            count = self.threads_of(number)
            if len(self._free) < count:
                raise OSError(0, "too many workers hang")
            taken, self._free = self._free[:count], self._free[count:]
            self._last[number] = taken, None
        rows = [board.rows[row] for row in taken]
        for row in rows:
            row.clear()
        if self.kind == "thread":
            unit: Unit = ThreadUnit(number, self.make_answer, rows, self._start_worker)
        else:
            ready, handover = self._shared[1:]
            assert isinstance(ready, EpollReadySet)  # noqa: S101 - processes are not offered elsewhere
            numbered = list(zip(taken, rows, strict=True))
            unit = ProcessUnit(number, self.make_answer, numbered, (board, ready, handover), self._preload)
        self._last[number] = taken, unit
        return unit

    def _watch(self) -> None:
        """Do nothing: the supervisor watches."""

    def _add(self, worker: Any) -> None:
        with self._changed:
            stopping = self._stopping
            if not stopping:
                self._workers[worker.number] = worker
        if stopping:
            worker.end(0.0)
            return
        self.newcomers.put(worker)
        self.notify()

    def start(self, *arguments: Any) -> None:
        super().start(*arguments)
        self._idle.clear()
        for unit in list(self._workers.values()):
            self.newcomers.put(unit)  # type: ignore[arg-type]
        self.notify()

    def _give_up(self, number: int, reason: str) -> None:
        super()._give_up(number, reason)
        self.notify()

    def ready_workers(self) -> int:
        """Return how many workers are there now."""
        return sum(self.threads_of(number) for number in list(self._workers))


def units_for(workers: int, count: int, preload: Sequence[str], info: ServerInfo) -> tuple[ServingUnits, ServerInfo]:
    """Return the units of a server, and what it says of itself: without epoll its workers are threads of one process.

    What they answer with comes later, as `make_answer`.
    """
    if count and not hasattr(select, "epoll"):
        log.warning("this system has no epoll: the workers are threads of one process, not %d processes", count)
        count, info = 0, replace(info, worker_kind="thread", server_processes=1)
    return ServingUnits(nothing_yet, workers, count, preload), info
