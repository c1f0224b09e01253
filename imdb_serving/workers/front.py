"""A task, and the front by which it comes in and its answer goes out: what a transport gives a crew. No sockets."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import msgspec

from imdb_serving.errors import ServingError


class Task(msgspec.Struct, gc=False, eq=False):
    """A received request: a message that is passed on to a worker as it is, and its size in bytes.

    `route` is whatever its front needs to send the answer back; `deadline` is in monotonic seconds. A `suspect` is of a
    client whose requests killed workers.
    """

    route: Any
    request_id: int
    received_ns: int
    deadline: float
    message: Any
    size: int
    open: Any = msgspec.field(default_factory=threading.Lock)
    suspect: bool = False

    def claim(self) -> bool:
        """Tell once, to one thread, that it is the one to answer."""
        return bool(self.open.acquire(False))


class Front(Protocol):
    """Where requests come from and answers go; called from all threads, and keeps its socket to itself.

    The crew sets `submit`, which takes a request or raises a `ServingError` that refuses it; `abandon`, to be called
    with an owner that is gone, whose requests nobody waits for; and `set_back`, with one that says no more and may be
    gone, whose requests are for when there is nothing else to do.
    """

    submit: Callable[[Task], None]
    abandon: Callable[[Hashable], None]
    set_back: Callable[[Hashable], None]

    counts: Counter[str]
    """How many requests it has refused by itself, by code."""

    def client(self, task: Task) -> str:
        """Return a name of a task's client, for the log."""

    def owner(self, task: Task) -> Hashable:
        """Return what is the same for all requests of a client."""

    def receive(self) -> bool:
        """Take in what has arrived, without waiting; `submit` what is for a worker. Tell whether there may be more."""

    def glance(self) -> None:
        """Do as `receive`, unless another thread is at it: its turn covers what has arrived until now."""

    def wait(self) -> None:
        """Wait until there may be something to receive, or `wake`."""

    def wake(self) -> None:
        """Have `wait` return."""

    def look_after(self) -> None:
        """Do what must be done now and then, whether anything arrives or not; called by the keeper every tick."""

    def answer(self, task: Task, outcome: Any) -> None:
        """Send what `work` returned. Where sending may take the sign that something arrived, then receive as well."""

    def answer_all(self, held: deque[tuple[Task, Any]]) -> None:
        """Send all answers, and take them off the queue; another thread may be at it as well."""

    def fail(self, task: Task, error: ServingError) -> None:
        """Send a failure."""
