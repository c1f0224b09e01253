"""A listener with one place where all requests arrive: no connection can be lent, so its users share it under a lock.

Workers that are threads receive and answer by themselves, through `DirectQueue`; where they are processes, the
supervisor does both.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from imdb_serving.errors import ServingError
from imdb_serving.protocol import wire
from imdb_serving.protocol.framing import Frame
from imdb_serving.server.request_queue import Task
from imdb_serving.server.rpc_requests import RequestDecoder
from imdb_serving.server.stream_listener import Supervisor


class SharedListener(ABC):
    """What is received and sent is a subclass's, which is called with the lock held."""

    endpoint: str
    descriptor: int
    """Readable once something has arrived; it may tell of that once only."""

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

    @abstractmethod
    def owner(self, task: Task) -> Hashable:
        """Return what is the same for all requests of a client."""

    @abstractmethod
    def client(self, task: Task) -> str:
        """Return a name of a task's client, for the log."""

    @property
    def readiness_descriptor(self) -> int:
        """The descriptor, if it is the supervisor who receives; else -1."""
        return -1 if self.is_direct else self.descriptor

    def receive(self) -> bool:
        """Send what is to be sent and take in what has arrived; tell whether there may be more."""
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
        """Have an answer leave with the next `receive` or `glance`."""
        self._outbox.append((task.route, outcome))

    def fail(self, task: Task, error: ServingError) -> None:
        """Have a failure leave likewise."""
        self.answer(task, wire.encode_failure(error, task.request_id))

    @property
    def held(self) -> int:
        """How many answers have not left."""
        return len(self._outbox)

    def is_quiet(self) -> bool:
        """Tell whether every answer has left."""
        return not self._outbox

    # No connection is lent.

    connections: Mapping[int, Any] = MappingProxyType({})
    lent: Mapping[int, int] = MappingProxyType({})
    unsettled: frozenset[int] = frozenset()

    def offer_all(self) -> None:
        """Do nothing."""
        return

    def socket_of(self, _number: int) -> Any:
        """Return nothing: it is not asked."""
        return None

    def generations(self) -> Iterator[tuple[int, int]]:
        """Yield nothing."""
        return iter(())

    def arrivals(self) -> Iterator[Any]:
        """Yield nothing."""
        return iter(())
