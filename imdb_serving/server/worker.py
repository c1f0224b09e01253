"""A worker: what it must do, and the one that answers in the calling thread; and the step timer of its requests.

A step that computes without Python's lock, or sleeps, is where a second thread is of use; the rest of a request holds
the lock. The timer tells the longest such step of the request that a thread is working on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol

from imdb_serving.errors import ServerStartError
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
