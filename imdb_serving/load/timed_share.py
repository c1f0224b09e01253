"""Load for a fixed time: clients stay connected and are told for each stretch how many send, how, and how long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from imdb_serving.clients.base import Client
from imdb_serving.load.closed_loop import ClientRecord, drive
from imdb_serving.load.open_loop import OpenShare, drive_open
from imdb_serving.load.workload import Result, ReviewWorkload
from imdb_serving.messages import Reply, Request
from imdb_serving.text.formats import Line


@dataclass(frozen=True, slots=True)
class ClosedSlice:
    """One client's part of a stretch of closed loop: `seconds` of requests, from the one at `first` on."""

    seconds: float
    batch: int
    first: int
    begin_ns: int = 0

    def starting_at(self, start_ns: int) -> ClosedSlice:
        """Return this slice with the moment from which times count, the same for all clients."""
        return replace(self, begin_ns=start_ns)

    def __len__(self) -> int:
        """Return 1: beyond its seconds a slice lasts as long as a request may take."""
        return 1


@dataclass(frozen=True, slots=True)
class OpenSlice:
    """A stretch of open loop, alike for all clients: when each request is due, and the file that says which is next."""

    due_ns: NDArray[np.int64]
    batch: int
    first: int
    tickets: Path
    clients: int
    patience_ns: int
    begin_ns: int = 0

    def starting_at(self, start_ns: int) -> OpenSlice:
        """Return this slice with the moment from which times count, the same for all clients."""
        return replace(self, begin_ns=start_ns)

    def __len__(self) -> int:
        """Return the requests that a client sends on average, at least 1."""
        return max(1, -(-len(self.due_ns) // self.clients))


@dataclass(frozen=True, slots=True)
class Endless:
    """A workload that begins anew when it is through; its first request is the one at `first`."""

    workload: ReviewWorkload
    first: int = 0

    def __len__(self) -> int:
        """Return the number of different requests."""
        return len(self.workload)

    def place(self, position: int) -> int:
        """Return which request of the workload stands at a position."""
        return (self.first + position) % len(self.workload)

    def prepare(self, position: int) -> Request:
        """Make the request at a position, however far, ready to send."""
        return self.workload.prepare(self.place(position))

    def finish(self, position: int, reply: Reply) -> list[Result]:
        """Return one result a sample."""
        return self.workload.finish(self.place(position), reply)


def drive_slice(lines: Sequence[Line], client: Client, share: ClosedSlice | OpenSlice) -> ClientRecord:
    """Work through a slice of the `lines`, which are whole batches; positions are requests of one pass over them."""
    workload = ReviewWorkload(lines, "ids", None, batch=share.batch)
    if isinstance(share, ClosedSlice):
        end_ns = (share.begin_ns or perf_counter_ns()) + int(share.seconds * 1e9)
        return drive(client, workload, _until(end_ns, len(workload), share.first))
    endless = Endless(workload, share.first)
    whole = OpenShare(endless, share.due_ns, share.tickets, share.clients, share.patience_ns, share.begin_ns)
    record = drive_open(client, whole)
    record.positions = [endless.place(position) for position in record.positions]
    return record


def _until(end_ns: int, count: int, first: int) -> Iterator[int]:
    """Yield positions, over and over, until the time is up."""
    for position in islice(cycle(range(count)), first % count, None):
        if perf_counter_ns() >= end_ns:
            return
        yield position
