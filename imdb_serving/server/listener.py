"""What a server asks of its listener, whatever the carrier, and what a listener asks of its server."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Set
from types import MappingProxyType
from typing import Any, Protocol

from imdb_serving.errors import ServingError
from imdb_serving.messages import ServerInfo
from imdb_serving.server.connection import StreamConnection
from imdb_serving.server.request_queue import Task
from imdb_serving.server.workers.carrier import Carrier, MakeCarrier
from imdb_serving.server.workers.live import LiveUnits
from imdb_serving.server.workers.ready_set import ReadySet
from imdb_serving.server.workers.scoreboard import Scoreboard


class Supervisor(Protocol):
    """Whom a listener works for: who takes its requests, and knows the workers. Called from one thread."""

    ready: ReadySet
    board: Scoreboard
    live: LiveUnits

    lowest: int
    """The lowest number for a connection: below it processes have other descriptors."""

    def introduce(self) -> ServerInfo:
        """Return what the server says of itself; raise a `ServingError` while it cannot answer."""

    submit: Callable[[Task], None]
    """Takes a request; raises a `ServingError` that refuses it."""

    abandon: Callable[[Hashable], None]
    """Drops the requests of a client that is gone."""

    set_back: Callable[[Hashable], None]
    """Has the requests of a client that has half-closed, and may be gone, wait behind all others."""

    def may_lend(self, connection: StreamConnection) -> bool:
        """Tell whether workers may have a connection now."""

    def read_reports(self) -> None:
        """Read what the workers have reported, and act on it."""

    def wake(self) -> None:
        """Have `receive` be called soon; from any thread."""


class Listener(ABC):
    """Receives requests and sends answers. A `number` is a connection's descriptor, the same in all processes."""

    endpoint: str
    counts: Counter[str]
    """How many requests it has refused by itself, by code."""

    is_direct = False
    """Whether workers receive from it and answer through it."""

    descriptor = -1
    """Where workers wait for it, if they do: readable once something has arrived; it may tell of that once only."""

    @property
    @abstractmethod
    def readiness_descriptor(self) -> int:
        """One that can be read from when `receive` has something to do for the supervisor; -1 where there is none."""

    @abstractmethod
    def receive(self) -> bool:
        """Take in what has arrived, without waiting; tell whether there may be more."""

    def glance(self) -> None:
        """Do as `receive`, unless another thread is at it."""
        self.receive()

    @abstractmethod
    def answer(self, task: Task, outcome: Any) -> None:
        """Send the answer to a request that was submitted."""

    @abstractmethod
    def fail(self, task: Task, error: ServingError) -> None:
        """Answer a request with an error."""

    @abstractmethod
    def owner(self, task: Task) -> Hashable:
        """Return what is the same for all requests of a client."""

    @abstractmethod
    def client(self, task: Task) -> str:
        """Return a name of a task's client, for the log."""

    @abstractmethod
    def look_after(self) -> None:
        """Do what must be done now and then, whether anything arrives or not."""

    @abstractmethod
    def is_quiet(self) -> bool:
        """Tell whether every answer has left."""

    @abstractmethod
    def close(self) -> None:
        """Close everything."""

    # Connections that are lent to workers. Here there are none, as with ZeroMQ; `LendingListener` has them.

    connections: Mapping[int, Any] = MappingProxyType({})
    lent: Mapping[int, int] = MappingProxyType({})
    """The numbers of the lent connections, with a count that tells one time from another."""

    unsettled: Set[int] = frozenset()
    """Those that were disarmed while a worker was about to arm them, for `settle_taken`."""

    def offer_all(self) -> None:  # noqa: B027 - there may be none
        """Lend all that can be lent."""

    def take(self, _number: int) -> bool:
        """Take a lent connection back, unless a worker is at it; tell whether nobody else has it now."""
        return False

    def unsettle(self, number: int) -> None:  # noqa: B027
        """Have a lent connection armed again by `settle_taken`."""

    def settle_taken(self) -> None:  # noqa: B027
        """Arm again what may have been disarmed just when its worker had armed it."""

    def socket_of(self, number: int) -> socket.socket:
        """Return a connection's socket, for workers of this process."""
        raise KeyError(number)

    def generations(self) -> Iterator[tuple[int, int]]:
        """Yield the numbers of all connections, and the generations of the numbers."""
        return iter(())

    def arrivals(self) -> Iterator[Any]:
        """Yield lent connections on which something has arrived since the last look."""
        return iter(())

    def reclaim(self, _number: int, _data: bytes = b"") -> Any:
        """Have a connection that nobody is at to oneself, and read from it; `data` was read from it before."""
        return None

    def unsent(self, number: int, data: Any) -> None:  # noqa: B027
        """Send the rest of a worker's answer, as the client reads it."""

    def peek(self, _connection: Any) -> bytes | None:
        """Return what lies on a connection, without taking it off; None if nothing does, and no bytes at its end."""
        return None

    def cells(self, number: int) -> memoryview:
        """Return what the scoreboard says of a connection."""
        raise KeyError(number)

    def written_and_read(self, _connection: Any) -> tuple[int, int]:
        """Return how many bytes were ever written to a connection, and read from it; 0 where that is not told."""
        return 0, 0

    def close_lent(self, connection: Any) -> None:  # noqa: B027
        """Close a connection of which it is not known whether its request was answered."""


class Service(Protocol):
    """What a server speaks: how it listens, and what its messages mean."""

    @property
    def carrier(self) -> Carrier:
        """One that reads, and does not answer."""

    def listen(self, supervisor: Supervisor) -> Listener:
        """Listen, for a supervisor; raise `ServerStartError` when the address cannot be had."""

    def answering(self, make: Callable[[], Any]) -> MakeCarrier:
        """Return what makes a worker's carrier, from what makes its handler."""
