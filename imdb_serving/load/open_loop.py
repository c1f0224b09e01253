"""The open-loop load generator: requests are sent when they are due, at times drawn from a stored seed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter_ns, sleep
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from imdb_serving.cell import CONSTANT, OFFLINE, POISSON
from imdb_serving.clients.base import Client
from imdb_serving.errors import ConfigError, RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.load.closed_loop import (
    GIVE_UP_AFTER,
    ClientRecord,
    FailedRequest,
    Workload,
    cpu_seconds,
    drive,
    tabulate,
)
from imdb_serving.messages import Reply, Request
from imdb_serving.timing import wake_precisely


def arrival_times(kind: str, rate: float, count: int, seed: int) -> NDArray[np.int64]:
    """Return `count` times in nanoseconds from the start, in order; `rate` is in requests a second.

    Poisson arrivals are drawn given their number, so that exactly this rate is offered: then they are uniform over
    `count / rate` seconds (Ross, Introduction to Probability Models, theorem 5.2). Offline, all are 0.
    """
    if kind == OFFLINE:
        return np.zeros(count, np.int64)
    seconds = count / rate
    if kind == CONSTANT:
        return (np.arange(count) * 1e9 / rate).astype(np.int64)
    if kind == POISSON:
        times = np.sort(np.random.default_rng(seed).uniform(0, seconds, count))
        return (times * 1e9).astype(np.int64)
    raise ConfigError(f"arrivals: {kind!r} has no times; expected {POISSON}, {CONSTANT} or {OFFLINE}")


class Tickets:
    """Numbers from 0 up, each given out once to whichever process asks next.

    A number is the place of a byte appended to a shared file: the kernel has appends wait for each other, and each
    process is told where its own went.
    """

    def __init__(self, path: Path) -> None:
        """Use the file at `path`, which is made if there is none."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def take(self) -> int:
        """Return the next number."""
        os.write(self._file, b".")
        return os.lseek(self._file, 0, os.SEEK_CUR) - 1

    def __enter__(self) -> Tickets:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


@dataclass(frozen=True, slots=True)
class OpenShare:
    """All requests, when each is due (ns from the start), and the file that says which is next; alike for all clients.

    A request that is overdue by more than `patience_ns` is not sent any more: the rate was not reached.
    """

    workload: Workload
    due_ns: NDArray[np.int64]
    tickets: Path
    clients: int
    patience_ns: int
    begin_ns: int = 0

    def starting_at(self, start_ns: int) -> OpenShare:
        """Return this share with the moment from which times count, the same for all clients."""
        return replace(self, begin_ns=start_ns)

    def __len__(self) -> int:
        """Return the requests that a client sends on average."""
        return -(-len(self.due_ns) // self.clients)


def drive_open(client: Client, share: OpenShare) -> ClientRecord:
    """Send the requests that are this client's turn when they are due, and record the raw samples.

    `starts_ns` is when a request was sent, `intended_ns` when it was due.
    """
    wake_precisely()
    record = ClientRecord()
    stamps: list[tuple[int, int, int, int, int]] = []
    replies: list[Reply] = []
    due: list[int] = []
    cpu, begin = cpu_seconds(), share.begin_ns or perf_counter_ns()
    for position, request, prepared in _turns(share, begin, record):
        start, made = prepared
        sent = perf_counter_ns()
        try:
            reply = client.call(request)
            answered = perf_counter_ns()
            outcome = share.workload.finish(position, reply)
        except ServingError as error:
            record.failures.append(FailedRequest(position, error.code, str(error)))
            if _given_up(record, error, len(stamps)):
                break
            continue
        stamps.append((start, made, sent, answered, perf_counter_ns()))
        replies.append(reply)
        due.append(begin + int(share.due_ns[position]))
        record.outcomes.append(outcome)
        record.positions.append(position)
    record.window_ns = (begin, perf_counter_ns())
    record.cpu_s = cpu_seconds() - cpu
    if stamps:
        start_, made_, sent_, answered_, finished_ = np.array(stamps, dtype=np.int64).T
        parts = (made_ - start_, answered_ - sent_, finished_ - answered_)
        tabulate(record, sent_, parts, replies)
        record.intended_ns = np.array(due, dtype=np.int64)
    return record


def drive_either(client: Client, share: Workload | OpenShare) -> ClientRecord:
    """Work through a share as what it is: of an open loop, or of a closed one."""
    return drive_open(client, share) if isinstance(share, OpenShare) else drive(client, share)


def _turns(share: OpenShare, begin: int, record: ClientRecord) -> Iterator[tuple[int, Request, tuple[int, int]]]:
    """Yield the requests that are this client's turn, made ready, each when it is due."""
    with Tickets(share.tickets) as tickets:
        while (position := tickets.take()) < len(share.due_ns):
            due = begin + int(share.due_ns[position])
            if perf_counter_ns() - due > share.patience_ns:
                return  # and so are all that follow
            start = perf_counter_ns()
            try:
                request = share.workload.prepare(position)
            except ServingError as error:
                record.failures.append(FailedRequest(position, error.code, str(error)))
                continue
            made = perf_counter_ns()
            wait = due - made
            if wait > 0:
                sleep(wait / 1e9)
            yield position, request, (start, made)


def _given_up(record: ClientRecord, error: ServingError, answered: int) -> bool:
    """Tell whether the server is gone: nothing was answered, and several requests in a row found nobody."""
    return (
        not answered and len(record.failures) >= GIVE_UP_AFTER and isinstance(error, ServerUnavailable | RequestTimeout)
    )
