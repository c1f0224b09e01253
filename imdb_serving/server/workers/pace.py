"""How brief requests are, and so how many threads of a process take them.

A step that computes without Python's lock, or sleeps, is where a second thread is of use; the rest of a request holds
the lock. The timer tells the longest such step of the request that a thread is working on.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from imdb_serving.timing import Stage

WAIT_SECONDS = 1.0


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


class Pace:
    """How many threads of a process take requests: one, while requests are brief."""

    def __init__(self, threads: int) -> None:
        self._alone = threads < 2
        self._typical = TypicalStep()
        self.is_brief = False
        self._all = threading.Event()
        self._all.set()

    def wait(self) -> None:
        """Wait while requests are brief, which is for all threads but the first."""
        self._all.wait(WAIT_SECONDS)

    def learn(self, whole_ns: int) -> None:
        """Learn from a request how long requests are; see `TypicalStep`."""
        self._typical.learn(whole_ns)
        self.is_brief = self._typical.nanoseconds <= BRIEF_NS
        if self.is_brief and not self._alone:
            self._all.clear()
        else:
            self._all.set()

    def release(self) -> None:
        """Have all threads take requests for now: the first is at one that is not brief, or all shall end."""
        self._all.set()
