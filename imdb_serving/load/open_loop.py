"""The open-loop load generator: requests are sent when they are due, at times drawn from a stored seed."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
    Share,
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


def drive_open(client: Client, share: Share, begin_ns: int = 0) -> ClientRecord:
    """Send the requests that are this client's turn when they are due, and record the raw samples.

    `starts_ns` is when a request was sent, `intended_ns` when it was due.
    """
    wake_precisely()
    record = ClientRecord()
    stamps: list[tuple[int, int, int, int, int]] = []
    replies: list[Reply] = []
    due: list[int] = []
    cpu, begin = cpu_seconds(), begin_ns or perf_counter_ns()
    for position, due_ns, request, (start, made) in _turns(share, begin, record):
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
        due.append(due_ns)
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


def drive_share(client: Client, share: Share, begin_ns: int = 0) -> ClientRecord:
    """Work through a share in an open or a closed loop; times count from `begin_ns`, the same for all clients."""
    return (drive if share.due_ns is None else drive_open)(client, share, begin_ns)


def _turns(share: Share, begin: int, record: ClientRecord) -> Iterator[tuple[int, int, Request, tuple[int, int]]]:
    """Yield this client's requests when they are due: position, due time, request, and its stamps of prepro."""
    assert share.due_ns is not None  # noqa: S101 - it is an open loop
    with Tickets(share.tickets) as tickets:
        while (number := tickets.take()) < len(share.due_ns):
            due, position = begin + int(share.due_ns[number]), share.position(number)
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
            yield position, due, request, (start, made)


def _given_up(record: ClientRecord, error: ServingError, answered: int) -> bool:
    """Tell whether the server is gone: nothing was answered, and several requests in a row found nobody."""
    return (
        not answered and len(record.failures) >= GIVE_UP_AFTER and isinstance(error, ServerUnavailable | RequestTimeout)
    )
