"""The closed-loop load generator: one client works through its share of the requests, one after another."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from time import perf_counter_ns, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imdb_serving.clients.base import Client
from imdb_serving.errors import RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.load.share import Share
from imdb_serving.messages import Reply
from imdb_serving.timing import Stage

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
