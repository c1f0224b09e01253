"""A unit of a server: one worker that is a thread of its process, or a process of some threads.

A process is started from the fork server, which has the engine loaded, so that it starts at once and shares memory. It
is spoken to over a pair of sockets, which has no name that could be left behind; when one side dies, the other reads
end of file at once.
"""

from __future__ import annotations

import array
import multiprocessing
import os
import select
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from imdb_serving import processes
from imdb_serving.errors import CODES, ServerStartError
from imdb_serving.server.workers import serving_process
from imdb_serving.server.workers.carrier import MakeCarrier
from imdb_serving.server.workers.handover import KIND, Handover
from imdb_serving.server.workers.ready_set import EpollReadySet
from imdb_serving.server.workers.scoreboard import OUTCOMES, Row, Scoreboard
from imdb_serving.server.workers.serving_process import BEGIN, CLOSE, MAX_TOLD, OPEN, READY, RELEASE, TOLD
from imdb_serving.server.workers.worker import Worker

STOP_SECONDS = 5.0
END_SECONDS = 1.0
"""How long a thread may take to end that does not hang."""


class ThreadUnit:
    """One worker, a thread of the supervisor's process. What it is made of is made in a thread of its own."""

    def __init__(self, number: int, make: MakeCarrier, rows: Sequence[Row], start: Callable[..., Worker]) -> None:
        """Begin to make the handler; `start` makes the worker, whose thread begins once it is ready."""
        self.number, self.made, self.rows = number, monotonic(), list(rows)
        self.stage_names: tuple[str, ...] = ()
        self._before = _answered(self.rows)
        self._make, self._start, self._error = make, start, ""
        self._worker: Worker | None = None
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
            raise ServerStartError(f"worker {self.number} {_not_ready(self._error)}")

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


STARTS_WITH = 16
"""How many descriptors there must be to start a process: it takes seven, and others take some at the same time."""


class ProcessUnit:
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
        try:
            files = [board.file, ready.descriptor, handover.requests.fileno(), handover.reporter.fileno()]
            socket.send_fds(self.control, [b"shared"], files)
            numbers = [at for at, _ in rows]
            cores = [processes.cores_of_worker(at) for at in numbers]
            sizes = board.workers, board.descriptors, files[2]
            arguments = theirs, make, numbers, sizes, cores
            self._process = _forked(f"worker-{number}", [serving_process.__name__, *preload], arguments)
        except BaseException:
            self.control.close()
            raise
        finally:
            theirs.close()
        self.pid: int = self._process.pid
        self._untold: deque[tuple[bytes, int]] = deque()

    def await_ready(self, deadline: float) -> None:
        """Wait until it can answer; raise `ServerStartError` with the reason when it cannot, or not in time."""
        self.control.settimeout(max(0.001, deadline - monotonic()))
        try:
            said = self.control.recv(MAX_TOLD)
        except TimeoutError:
            raise ServerStartError(f"worker {self.number} {_not_ready('')}") from None
        except OSError as error:
            raise ServerStartError(f"worker {self.number} died while starting") from error
        if not said:
            raise ServerStartError(f"worker {self.number} died while starting")
        words = said[1:].decode("utf-8", "replace")
        if said[0] != READY:
            raise ServerStartError(f"worker {self.number} {_not_ready(words)}")
        self.stage_names = tuple(words.split("\n")) if words else ()
        self.control.setblocking(False)

    def begin(self) -> None:
        """Have its threads take requests."""
        self._tell(TOLD.pack(BEGIN, 0, 0), -1)

    @property
    def proven(self) -> bool:
        """Whether it has answered a request."""
        return _answered(self.rows) > self._before

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable once the process has ended; the fork server may have ended long before."""
        return self.control.fileno()

    def is_dead(self) -> bool:
        """Tell whether the process has ended, whose end of the conversation is closed then."""
        try:
            while self.control.recv(MAX_TOLD, socket.MSG_DONTWAIT):
                pass  # it was told to end before it was heard that it is ready
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

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
        if not self.is_dead():
            os.kill(self.pid, signal.SIGKILL)

    def end(self, seconds: float) -> str:
        """End it; what has not ended by itself in so many seconds is killed. Return how it ended."""
        self._forget_untold()
        self.control.setblocking(False)
        with suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)  # it reads the end, and we still see its own
        hung = not self._ends_within(seconds)
        if hung:
            self.kill()
            self._ends_within(STOP_SECONDS)
        self.control.close()
        self._process.join(STOP_SECONDS)
        code = self._process.exitcode
        self._process.close()
        return "hung" if hung else f"died ({_exit_words(code)})"

    def _ends_within(self, seconds: float) -> bool:
        until = monotonic() + seconds
        ended = select.poll()  # and not `select`, which takes no descriptor above 1,023
        ended.register(self.control, select.POLLIN)
        while not self.is_dead():
            if monotonic() >= until:
                return False
            ended.poll(1000 * max(0.0, until - monotonic()))
        return True


def _answered(rows: Sequence[Row]) -> int:
    return sum(row.cells[OUTCOMES + at] for row in rows for at in range(len(CODES)))


Unit = ThreadUnit | ProcessUnit


def _not_ready(error: str) -> str:
    return f"could not start: {error}" if error else "was not ready in time"


def _forked(name: str, preload: Sequence[str], arguments: tuple[Any, ...]) -> Any:
    """Return a process from the fork server, which loads `preload` first, that serves."""
    _need_descriptors()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([processes.__name__, *preload])
    processes.prepare_fork_server()
    process = context.Process(target=serving_process.serve, args=arguments, name=name, daemon=True)
    # Ctrl-C reaches the whole process group. Only the server acts on it, so workers never see it, not even while they
    # start: the signals are blocked around the start and ignored before they are unblocked.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    return process


def _need_descriptors() -> None:
    """Raise `OSError` unless there are enough descriptors left to start a process.

    If they run out while the fork server is asked, it ends, and knows no more what becomes of the others.
    """
    spare: list[int] = []
    try:
        while len(spare) < STARTS_WITH:
            spare.append(os.dup(2))
    finally:
        for descriptor in spare:
            os.close(descriptor)


def _exit_words(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
