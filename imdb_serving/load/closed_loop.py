"""One client's share of a block of load, and the closed loop, which sends its requests one after another."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from math import inf
from pathlib import Path
from time import perf_counter_ns, process_time
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from imdb_serving.clients.base import Client
from imdb_serving.errors import RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.messages import Reply, Request
from imdb_serving.timing import Stage


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
    seconds: float = inf
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
        if self.seconds == inf:
            return found
        end_ns = begin_ns + int(self.seconds * 1e9)
        return takewhile(lambda _: perf_counter_ns() < end_ns, found)

    def expected(self) -> int:
        """Return how many requests a client sends at most; in an open loop on average, in a limited time at least."""
        if self.due_ns is not None:
            return max(1, -(-len(self.due_ns) // self.clients))
        return self.requests if self.seconds == inf else 1

    def longest_seconds(self, request_timeout: float) -> float:
        """Return the longest time that the share can take when each request takes `request_timeout` seconds."""
        limit = 0.0 if self.seconds == inf else self.seconds
        return limit + self.expected() * request_timeout


GIVE_UP_AFTER = 3


@dataclass(frozen=True, slots=True)
class FailedRequest:
    """A request that got no answer: its position in the workload, the error's code and text."""

    position: int
    code: str
    message: str


@dataclass(slots=True)
class ClientRecord:
    """What one client saw: raw samples of its answered requests, and its failures.

    `durations[i]` are the nanoseconds of request `positions[i]` by `columns`; `starts_ns[i]` is when it began, and in
    an open loop `intended_ns[i]` when it should have. `clock_bounds_ns[i]` is how far its `send` and `reply` can be
    from the truth where the server's clock is another host's; it is empty where there is one clock.
    """

    columns: tuple[str, ...] = ()
    positions: list[int] = field(default_factory=list)
    starts_ns: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    durations: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))
    outcomes: list[Any] = field(default_factory=list)
    failures: list[FailedRequest] = field(default_factory=list)
    window_ns: tuple[int, int] = (0, 0)
    cpu_s: float = 0.0
    """CPU time of the client's process within the window, its threads included, and of processes it forked."""
    intended_ns: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    clock_bounds_ns: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


_Stamps = tuple[int, int, int, int]


def drive(client: Client, share: Share, begin_ns: int = 0) -> ClientRecord:
    """Send a share's requests, one after another, and record the raw samples.

    A refused or late request is recorded and the next one sent. When the server is gone, or late, several times in a
    row, the rest is given up, so that a dead server cannot hold a client for hours.
    """
    record = ClientRecord()
    stamps: list[_Stamps] = []
    replies: list[Reply] = []
    in_a_row = 0
    workload = share.workload
    cpu = cpu_seconds()
    begin = perf_counter_ns()
    positions = share.positions(begin_ns or begin)
    for position in positions:
        start = perf_counter_ns()
        try:
            request = workload.prepare(position)
            prepared = perf_counter_ns()
            reply = client.call(request)
            answered = perf_counter_ns()
            outcome = workload.finish(position, reply)
        except ServingError as error:
            record.failures.append(FailedRequest(position, error.code, str(error)))
            in_a_row = in_a_row + 1 if isinstance(error, ServerUnavailable | RequestTimeout) else 0
            if in_a_row == GIVE_UP_AFTER:
                why = f"not sent: given up after {in_a_row} requests in a row failed: {error}"
                rest = positions if share.seconds == inf else ()
                record.failures += [FailedRequest(other, error.code, why) for other in rest]
                break
            continue
        in_a_row = 0
        stamps.append((start, prepared, answered, perf_counter_ns()))
        replies.append(reply)
        record.outcomes.append(outcome)
        record.positions.append(position)
    record.window_ns = (begin, perf_counter_ns())
    record.cpu_s = cpu_seconds() - cpu
    if stamps:
        start_, prepared_, answered_, finished_ = np.array(stamps, dtype=np.int64).T
        parts = (prepared_ - start_, answered_ - prepared_, finished_ - answered_)
        tabulate(record, start_, parts, replies)
    return record


def cpu_seconds() -> float:
    """Return the CPU time of this process until now, and of the children it has waited for: curl is one a request."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return process_time() + children.ru_utime + children.ru_stime


def tabulate(
    record: ClientRecord,
    starts_ns: NDArray[np.int64],
    parts: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    replies: Sequence[Reply],
) -> None:
    """Fill in durations by column, behind the timed window: `parts` are prepro, client_infer and postpro."""
    bounds, stages = [], []
    for reply in replies:  # in their order: each teaches what the next may know of the server's clock
        stages.append(reply.stages)
        bounds.append(reply.clock_bound_ns)
    if any(bounds):
        record.clock_bounds_ns = np.array(bounds, dtype=np.int64)
    names = tuple(dict.fromkeys(stage.name for request in stages for stage in request))
    prepro, infer, postpro = parts
    record.columns = ("prepro", "client_infer", *names, "postpro", "total")
    inner = np.array([_by_name(request, names) for request in stages], dtype=np.int64)
    record.starts_ns = starts_ns
    record.durations = np.column_stack([prepro, infer, inner, postpro, prepro + infer + postpro])


def _by_name(stages: Sequence[Stage], names: Sequence[str]) -> list[int]:
    """Return a request's durations by name; where a proxy dropped the server's stages, these are 0."""
    if len(stages) == len(names):  # as they nearly always are
        return [stage.end_ns - stage.start_ns for stage in stages]
    found = {stage.name: stage.end_ns - stage.start_ns for stage in stages}
    return [found.get(name, 0) for name in names]
