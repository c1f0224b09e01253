"""What one client does in a block of load: which requests of a workload it sends, how many, and when."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from imdb_serving.messages import Reply, Request


class Workload(Protocol):
    """Requests by position, and what becomes of their replies."""

    def __len__(self) -> int:
        """Return the number of different requests."""

    def prepare(self, position: int) -> Request:
        """Make a request ready to send (prepro)."""

    def finish(self, position: int, reply: Reply) -> Any:
        """Make something of the reply (postpro)."""


NOTHING = cast("Workload", None)
"""In place of a workload that the receiver of a share has already."""


@dataclass(frozen=True, slots=True)
class Share:
    """One client's part of a block of load. Its n-th request is the workload's at `position(n)`.

    Closed loop: the client sends `requests` of them, each when the last is answered, for `seconds` at most.

    Open loop (`due_ns`): the n-th request is due `due_ns[n]` after the start, and the `clients` that have this share
    take turns at them through the file `tickets`. One that is overdue by more than `patience_ns` is not sent: the rate
    was not reached.
    """

    workload: Workload
    requests: int
    first: int = 0
    step: int = 1
    seconds: float = math.inf
    due_ns: NDArray[np.int64] | None = None
    tickets: Path = Path()
    clients: int = 1
    patience_ns: int = 0

    @classmethod
    def whole(cls, workload: Workload) -> Share:
        """Return the share of a client that sends every request of a workload once."""
        return cls(workload, len(workload))

    def position(self, number: int) -> int:
        """Return the position of the share's n-th request in the workload, which begins anew at its end."""
        return (self.first + number * self.step) % len(self.workload)

    def positions(self, begin_ns: int = 0) -> Iterator[int]:
        """Yield the positions of a closed loop's requests until the time is up, which counts from `begin_ns`."""
        if self.first + (self.requests - 1) * self.step < len(self.workload):
            found = iter(range(self.first, self.first + self.requests * self.step, self.step))
        else:
            found = map(self.position, range(self.requests))
        if self.seconds == math.inf:
            return found
        end_ns = begin_ns + int(self.seconds * 1e9)
        return takewhile(lambda _: perf_counter_ns() < end_ns, found)

    def expected(self) -> int:
        """Return how many requests a client sends at most; in an open loop on average, in a limited time at least."""
        if self.due_ns is not None:
            return max(1, -(-len(self.due_ns) // self.clients))
        return self.requests if self.seconds == math.inf else 1

    def longest_seconds(self, request_timeout: float) -> float:
        """Return the longest time that the share can take when each request takes `request_timeout` seconds."""
        limit = 0.0 if self.seconds == math.inf else self.seconds
        return limit + self.expected() * request_timeout
