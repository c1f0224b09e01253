"""A listener with one place where all requests arrive: no connection can be lent, so its users share it under a lock.

Workers that are threads receive and answer by themselves, through `DirectQueue`; where they are processes, the
supervisor does both.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import Counter, deque
from typing import Any

from imdb_serving.errors import ServingError
from imdb_serving.protocol import wire
from imdb_serving.protocol.framing import Frame
from imdb_serving.server.listener import Listener, Supervisor
from imdb_serving.server.request_queue import Task
from imdb_serving.server.rpc.requests import RequestDecoder

MAX_HELD = 16
"""How many answers are held at most."""


class SharedListener(Listener):
    """What is received and sent is a subclass's, which is called with the lock held."""

    def __init__(self, decoder: RequestDecoder, supervisor: Supervisor, *, direct: bool) -> None:
        """Take what makes tasks of messages, and whom this works for; with `direct` the workers receive."""
        self._decoder, self._supervisor, self.is_direct = decoder, supervisor, direct
        self.counts: Counter[str] = decoder.counts
        self._guard = threading.Lock()
        self.has_more = False
        """Whether more has arrived than was received, of which the descriptor does not tell again."""

        self._outbox: deque[tuple[Any, Frame]] = deque()
        self._asked = False

    @abstractmethod
    def _receive(self) -> None:
        """Take in what has arrived, up to a limit, and note whether there is more."""

    @abstractmethod
    def _send(self, route: Any, piece: Frame) -> None:
        """Send an answer."""

    @property
    def readiness_descriptor(self) -> int:
        return -1 if self.is_direct else self.descriptor

    def receive(self) -> bool:
        self.glance()
        return self.has_more

    def glance(self) -> None:
        """Do as `receive`, unless another thread is at it.

        Nobody waits for the lock, which would cost more than what is done under it: whoever had it looks, once it is
        given back, whether somebody asked meanwhile.
        """
        self._asked = True
        while self._asked and self._guard.acquire(blocking=False):
            try:
                self._asked = False
                while self._outbox:
                    self._send(*self._outbox.popleft())
                self._receive()
            finally:
                self._guard.release()

    def look_after(self) -> None:
        """Send what is left; called now and then."""
        if self._asked or self._outbox:
            self.glance()

    def answer(self, task: Task, outcome: Frame) -> None:
        """Have an answer leave with the next `receive` or `glance`, or once some are held."""
        self._outbox.append((task.route, outcome))
        if len(self._outbox) >= MAX_HELD:
            self.glance()

    def fail(self, task: Task, error: ServingError) -> None:
        """Have a failure leave likewise."""
        self.answer(task, wire.encode_failure(error, task.request_id))

    def is_quiet(self) -> bool:
        return not self._outbox
