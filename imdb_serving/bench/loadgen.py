"""The closed-loop load generator: client processes that each work through their share of the requests.

It knows clients and requests, and nothing of reviews, models or web servers. Inside the timed window it only takes
stamps and appends; everything else is computed afterwards.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from time import monotonic, perf_counter_ns
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imdb_serving.errors import RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.messages import Reply, Request
from imdb_serving.timing import Stage
from imdb_serving.transports.base import Client

START_SECONDS = 60.0
GIVE_UP_AFTER = 3
PRELOAD = ["imdb_serving.bench.loadgen", "imdb_serving.bench.workload", "imdb_serving.transports.connect"]

Connect = Callable[[], Client]


class Workload(Protocol):
    """One client's share of the requests."""

    def __len__(self) -> int:
        """Return the number of requests."""

    def prepare(self, position: int) -> Request:
        """Make a request ready to send (prepro)."""

    def finish(self, position: int, reply: Reply) -> Any:
        """Make something of the reply (postpro)."""


@dataclass(frozen=True, slots=True)
class FailedRequest:
    """A request that got no answer: its position in the share, the error's code and text."""

    position: int
    code: str
    message: str


@dataclass(slots=True)
class ClientRecord:
    """What one client saw: raw samples of its answered requests, and its failures.

    `durations[i]` are the nanoseconds of request `positions[i]` by `columns`; `starts_ns[i]` is when it began.
    """

    columns: tuple[str, ...] = ()
    positions: list[int] = field(default_factory=list)
    starts_ns: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    durations: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))
    outcomes: list[Any] = field(default_factory=list)
    failures: list[FailedRequest] = field(default_factory=list)
    window_ns: tuple[int, int] = (0, 0)


_Stamps = tuple[int, int, int, int]


def drive(client: Client, workload: Workload) -> ClientRecord:
    """Send a share's requests, one after another, and record the raw samples.

    A refused or late request is recorded and the next one sent; when the server is gone, or late, several times in a
    row, the rest is given up, so that a dead server cannot hold a client for hours.
    """
    record = ClientRecord()
    stamps: list[_Stamps] = []
    stages: list[list[Stage]] = []
    in_a_row = 0
    begin = perf_counter_ns()
    for position in range(len(workload)):
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
                rest = range(position + 1, len(workload))
                why = f"not sent: given up after {in_a_row} requests in a row failed: {error}"
                record.failures += [FailedRequest(other, error.code, why) for other in rest]
                break
            continue
        in_a_row = 0
        stamps.append((start, prepared, answered, perf_counter_ns()))
        stages.append(reply.stages)
        record.outcomes.append(outcome)
        record.positions.append(position)
    record.window_ns = (begin, perf_counter_ns())
    _tabulate(record, stamps, stages)
    return record


def _tabulate(record: ClientRecord, stamps: Sequence[_Stamps], stages: Sequence[Sequence[Stage]]) -> None:
    """Turn stamps into durations by column, behind the timed window."""
    if not stamps:
        return
    names = tuple(stage.name for stage in stages[0])
    record.columns = ("prepro", "client_infer", *names, "postpro", "total")
    inner = np.array([[stage.end_ns - stage.start_ns for stage in request] for request in stages], dtype=np.int64)
    start, prepared, answered, finished = np.array(stamps, dtype=np.int64).T
    record.starts_ns = start
    record.durations = np.column_stack(
        [prepared - start, answered - prepared, inner, finished - answered, finished - start]
    )


def run_load(connect: Connect, shares: Sequence[Workload], request_timeout: float) -> list[ClientRecord]:
    """Run one client process a share, all started together, and return their records in order.

    `connect` and the shares must be picklable. A client process that dies leaves a record in which all its requests
    failed; nothing is waited for longer than its requests' deadlines allow.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    pipes: list[Connection] = []
    processes = []
    try:
        for number, share in enumerate(shares):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_client_process, args=(theirs, connect, share), name=f"client-{number}", daemon=True
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        longest = max(len(share) for share in shares)
        records = _collect(pipes, [_lost(share) for share in shares], START_SECONDS)
        connected = [number for number, record in enumerate(records) if record is None]
        for number in connected:
            _tell(pipes[number], "go")
        outcome = _collect(
            [pipes[number] for number in connected],
            [_lost(shares[number]) for number in connected],
            longest * request_timeout + START_SECONDS,
        )
        for number, record in zip(connected, outcome, strict=True):
            records[number] = record
        return [record for record in records if record is not None]
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.terminate()
            process.join(START_SECONDS)


def _lost(share: Workload, error: ServingError | None = None) -> ClientRecord:
    """Return the record of a share of which nothing was sent, or whose process died with all it had measured."""
    code, why = (error.code, f"not sent: {error}") if error else ("internal", "the client process died")
    return ClientRecord(failures=[FailedRequest(position, code, why) for position in range(len(share))])


def _tell(pipe: Connection, word: str) -> None:
    try:
        pipe.send(word)
    except OSError:
        return  # the process died; collecting its record finds out


def _collect(
    pipes: Sequence[Connection], defaults: Sequence[ClientRecord], seconds: float
) -> list[ClientRecord | None]:
    """Receive one object from every pipe; a process that died or is late leaves its default."""
    received: list[ClientRecord | None] = list(defaults)
    waiting = {pipe: number for number, pipe in enumerate(pipes)}
    deadline = monotonic() + seconds
    while waiting and (readable := wait(list(waiting), max(0.0, deadline - monotonic()))):
        for pipe in [pipe for pipe in waiting if pipe in readable]:
            number = waiting.pop(pipe)
            try:
                received[number] = pipe.recv()
            except (EOFError, OSError):
                continue
    return received


def _client_process(pipe: Connection, connect: Connect, share: Workload) -> None:
    """Connect, wait for the start signal, work through the share, hand back its record."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends its clients
    with pipe:
        try:
            with connect() as client:
                client.hello()  # so that no request pays for the connection
                pipe.send(None)
                pipe.recv()
                pipe.send(drive(client, share))
        except ServingError as error:
            pipe.send(_lost(share, error))
        except EOFError:
            return  # the parent has given up
