"""A worker: what it must do, one that answers in the calling thread, one that is a process, and their step timer.

A step that computes without Python's lock, or sleeps, is where a second thread is of use; the rest of a request holds
the lock. The timer tells the longest such step of the request that a thread is working on.

A process is started from the fork server, which has the engine loaded, so that it starts at once and shares the
server's memory. It is spoken to over a socket pair, which has no name that could be left behind; when one side dies,
the other reads end of file at once.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol

from imdb_serving import logs, processes
from imdb_serving.errors import ServerStartError
from imdb_serving.processes import HeapTrimmer
from imdb_serving.protocol.framing import Frame
from imdb_serving.protocol.outcome import marked, number_of
from imdb_serving.server.channel import Channel, Frames
from imdb_serving.timing import Stage

Answer = Callable[[int, Any], Any]
"""Answers one request: from when it was received (ns) and its message to the answer's. It raises nothing. Between
processes a message is frames; within a thread it may be anything. It may have `stage_names`, of
what it times: its worker tells them."""

MakeAnswer = Callable[[], Answer]
STOP_SECONDS = 5.0


class Worker(Protocol):
    """One request at a time."""

    number: int
    stage_names: tuple[str, ...]
    made: float
    """When it was made, in monotonic seconds."""

    proven: bool
    """Whether it has answered a request."""

    def await_ready(self, deadline: float) -> None:
        """Wait until it can answer; raise `ServerStartError` with the reason when it cannot, or not in time."""

    def ask(self, received_ns: int, message: Any, deadline: float) -> Any:
        """Answer; raise `TimeoutError` when that takes too long, `EOFError` or `OSError` when the worker died."""

    def is_dead(self) -> bool:
        """Tell, while nothing is asked, whether the worker is gone."""

    def settles(self, seconds: float) -> bool:
        """Wait for a late answer; return whether it came, so that the worker can be used again."""

    def end(self, seconds: float) -> str:
        """Give back what it holds; what has not ended by itself in so many seconds is killed. Return how it ended."""


class ThreadWorker:
    """Answers in the calling thread. What it is made of is made in a thread of its own name, side by side."""

    def __init__(self, number: int, make_answer: MakeAnswer, _preload: Sequence[str]) -> None:
        """Begin to make the handler."""
        self.number, self.made, self.proven = number, monotonic(), False
        self.stage_names: tuple[str, ...] = ()
        self._make_answer = make_answer
        self.answer: Any = None
        self._error = ""
        self.thread = 0
        self._maker = threading.Thread(target=self._make, name=f"worker-{number}", daemon=True)
        self._maker.start()

    def _make(self) -> None:
        try:
            self.answer = self._make_answer()
            self.stage_names = stage_names_of(self.answer)
        except Exception as error:
            self._error = f"{type(error).__name__}: {error}"

    def await_ready(self, deadline: float) -> None:
        self._maker.join(max(0.0, deadline - monotonic()))
        if self.answer is None:
            raise ServerStartError(f"worker {self.number} {not_ready(self._error)}")

    def ask(self, received_ns: int, message: Any, _deadline: float) -> Any:
        self.thread = threading.get_ident()
        try:
            answer = self.answer(received_ns, message)
        finally:
            self.thread = 0
        self.proven = True
        return answer

    def is_dead(self) -> bool:
        """Return False: a thread does not die alone."""
        return False

    def settles(self, _seconds: float) -> bool:
        """Nothing is late: `ask` returned."""
        return True

    def end(self, _seconds: float) -> str:
        return "hung"


def nothing_yet() -> Answer:
    """Stand in for what makes a worker's handler until that is known."""
    raise NotImplementedError


def stage_names_of(answer: Answer) -> tuple[str, ...]:
    """Return the names of a handler's stages, if it has any."""
    return tuple(getattr(answer, "stage_names", ()))


def not_ready(error: str) -> str:
    """Return why a worker is not ready."""
    return f"could not start: {error}" if error else "was not ready in time"


class StepTimer(threading.local):
    """The longest step of a request that the calling thread is working on.

    `start` asks for it; the handler, which knows the steps, calls `record` when it finds `wanted` set.
    """

    wanted = False
    longest_ns: int | None = None

    def start(self) -> None:
        """Ask for the longest step of the thread's next request."""
        self.wanted, self.longest_ns = True, None

    def record(self, steps: Sequence[Stage]) -> None:
        """Record how long a request's steps took, if that is wanted."""
        if self.wanted:
            self.wanted = False
            self.longest_ns = max((step.end_ns - step.start_ns for step in steps), default=0)


step_timer = StepTimer()

BRIEF_NS = 70_000
"""A request that leaves the interpreter to others for a shorter time is best answered by one thread of a process: to
wake another one takes as long, and then both would wait for Python's lock (docs/performance.md)."""

LOOK_AT_EVERY = 4
"""Of so many requests one is timed."""

STEP = 1.05
NOT_KNOWN = 1e18


class TypicalStep:
    """How long a request typically leaves the interpreter to others. One request moves it by 5 %: it is the median."""

    def __init__(self) -> None:
        self.nanoseconds = NOT_KNOWN

    def learn(self, whole_ns: int) -> None:
        """Learn from a request, by its longest step; by all its time, if its handler timed none."""
        longest_ns = step_timer.longest_ns
        left_ns = whole_ns if longest_ns is None else longest_ns
        if self.nanoseconds == NOT_KNOWN:
            self.nanoseconds = float(left_ns)
        else:
            self.nanoseconds *= STEP if left_ns > self.nanoseconds else 1 / STEP


log = logging.getLogger(__name__)

FAILED, READY = 0, 1
STARTS_WITH = 16
"""How many descriptors there must be to start a process: it takes seven, and others take some at the same time."""


class ForkedProcess:
    """A process from the fork server, which has the engine loaded; it gets one end of a pair of sockets."""

    def __init__(
        self,
        name: str,
        pair: tuple[socket.socket, socket.socket],
        preload: Sequence[str],
        target: Callable[..., None],
        *arguments: Any,
    ) -> None:
        """Have it call `target` with the pair's second end and the arguments. The fork server loads `preload` first."""
        ours, theirs = pair
        try:
            _need_descriptors()
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([processes.__name__, *preload])
            processes.prepare_fork_server()
            self.process: Any = context.Process(target=target, args=(theirs, *arguments), name=name, daemon=True)
            # Ctrl-C reaches the whole process group. Only the server acts on it, so workers never see it, not even
            # while they start: the signals are blocked around the start and ignored before they are unblocked.
            previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            try:
                self.process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        pid: int = self.process.pid
        return pid

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable once the process has ended."""
        sentinel: int = self.process.sentinel
        return sentinel

    def join(self, seconds: float) -> str:
        """Wait for its end; what has not ended by itself in so many seconds is killed. Return how it ended."""
        process = self.process
        process.join(seconds)
        if hung := process.is_alive():
            process.kill()
            process.join(STOP_SECONDS)
        code = process.exitcode
        process.close()
        return "hung" if hung else f"died ({_exit_words(code)})"


def ignore_signals() -> None:
    """Leave Ctrl-C and SIGTERM to the server, in a process that was started with them blocked."""
    for number in (signal.SIGINT, signal.SIGTERM):  # frameworks set handlers of their own when loaded
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


class ProcessWorker(ForkedProcess):
    """Has a process answer."""

    def __init__(self, number: int, make_answer: MakeAnswer, preload: Sequence[str]) -> None:
        self.number, self.made, self.proven = number, monotonic(), False
        self.stage_names: tuple[str, ...] = ()
        ours, theirs = socket.socketpair()
        cores = processes.cores_of_worker(number)
        super().__init__(f"worker-{number}", (ours, theirs), preload, _work, make_answer, cores)
        self._channel = Channel(ours)

    def await_ready(self, deadline: float) -> None:
        try:
            code, words = self._channel.receive(deadline)
        except TimeoutError:
            raise ServerStartError(f"worker {self.number} {not_ready('')}") from None
        except (EOFError, OSError) as error:
            raise ServerStartError(f"worker {self.number} died while starting") from error
        if code != READY:
            raise ServerStartError(f"worker {self.number} {not_ready(bytes(words[0]).decode('utf-8', 'replace'))}")
        self.stage_names = tuple(bytes(word).decode() for word in words)

    def ask(self, received_ns: int, message: Frames, deadline: float) -> Frames:
        self._channel.send(received_ns, message, deadline)
        number, answer = self._channel.receive(deadline)
        self.proven = True
        return marked(answer, number) if number else answer

    def is_dead(self) -> bool:
        """Tell whether the process said anything unasked: that can only be its end."""
        return self._channel.has_word()

    def settles(self, seconds: float) -> bool:
        """Read the late answer. A request that was not taken whole is not answered: then this is the end of it."""
        try:
            self._channel.receive(monotonic() + seconds)
        except (TimeoutError, EOFError, OSError):
            return False
        return True

    def end(self, seconds: float) -> str:
        self._channel.close()
        return self.join(seconds)


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


def _work(connection: socket.socket, make_answer: MakeAnswer, own_cores: Sequence[int]) -> None:
    """Make the handler, say so, then answer requests until the server closes the conversation or dies."""
    processes.pin(own_cores)
    channel = Channel(connection)
    try:
        answer = make_answer()
    except Exception as error:
        _say(channel, FAILED, [f"{type(error).__name__}: {error}".encode()])
        return
    logs.set_up_as_told()
    ignore_signals()
    _say(channel, READY, [name.encode() for name in stage_names_of(answer)])
    heap = HeapTrimmer(monotonic())
    while True:
        try:
            received_ns, frames = channel.receive()
        except (EOFError, OSError):
            return
        outcome = answer(received_ns, frames)
        _say(channel, number_of(outcome), outcome)
        heap.tidy(monotonic())


def _say(channel: Channel, number: int, frames: Sequence[Frame]) -> None:
    try:
        channel.send(number, frames)
    except OSError:
        log.debug("the server closed the conversation before an answer was sent")
