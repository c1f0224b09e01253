"""What the clients measure now, over the last half minute, and under a setting that was held. Draws nothing.

A setting that was held long enough becomes a judged row, and rows become dots with intervals. A dot follows the rules
of a sweep as far as a live view can: the time after a change is left out, every answer is compared with the bare
engine's, and every gate is passed or named. It has no rounds with new servers in shuffled order: its interval is over
stretches of one server's life, so a verdict needs a sweep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import NamedTuple

import msgspec
import pandas as pd

from imdb_serving.analysis import summary
from imdb_serving.analysis.cells import frame
from imdb_serving.analysis.intervals import Estimate, estimate_positive, needed
from imdb_serving.cell import CLOSED, OK, Cell, Row
from imdb_serving.lab.testbed import CLOSED_SECONDS, OPEN_SECONDS, Stretch
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.measurement.cpu_meter import added
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.machine import usable_cores
from imdb_serving.measurement.measure import Round, assess, client_ceiling, judged

HISTORY_SECONDS = 30.0
NOW_SECONDS = 2.0
"""What a number tells of: long enough for a p95 of a hundred requests a second, short enough to follow a hand."""


class Now(NamedTuple):
    """The live numbers. Latencies are in milliseconds, None where too few requests were measured.

    `throughput` is in reviews a second, `stages_us` a request's mean time in each stage, in order; `queue` is the mean
    number of requests that wait for a worker (Little's law), None where the server does not tell; `server` and
    `clients` are shares of all `cores`, None where processes are not known.
    """

    throughput: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    stages_us: Mapping[str, float]
    queue: float | None
    server: float | None
    clients: float
    cores: float
    failures: int
    requests: int
    why: str = ""


class Point(NamedTuple):
    """One stretch in the history: seconds before now, reviews a second, p95 (else the median) in milliseconds."""

    age_s: float
    throughput: float
    latency_ms: float | None


class LiveStatistics:
    """The last half minute of stretches."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, Stretch]] = deque()
        self._history: deque[Point] = deque()  # of these, `age_s` is the moment itself

    def add(self, stretch: Stretch) -> None:
        """Take a stretch that has just ended."""
        now = monotonic()
        if self._recent and self._recent[-1][1].settings != stretch.settings:
            self._recent.clear()
        self._recent.append((now, stretch))
        while now - self._recent[0][0] > NOW_SECONDS:
            self._recent.popleft()
        seen = numbers([stretch])
        self._history.append(Point(now, seen.throughput, seen.p95_ms or seen.p50_ms))
        while now - self._history[0].age_s > HISTORY_SECONDS:
            self._history.popleft()

    def now(self) -> Now | None:
        """Return the numbers of the last two seconds under the present settings; None before the first."""
        return numbers([stretch for _, stretch in self._recent]) if self._recent else None

    def history(self) -> list[Point]:
        """Return the last half minute, the oldest first."""
        now = monotonic()
        return [point._replace(age_s=now - point.age_s) for point in self._history]

    def clear(self) -> None:
        """Drop all stretches: the server has changed."""
        self._recent.clear()


def numbers(stretches: Sequence[Stretch]) -> Now:
    """Return the numbers of stretches under the same settings."""
    settings = stretches[0].settings
    records = [record for stretch in stretches for record in stretch.records]
    failures = [failure for record in records for failure in record.failures]
    requests = sum(len(record.positions) for record in records)
    rate = request_rate(stretches)
    latency = _latency(records, settings.arrivals == CLOSED) if requests else {}
    means = summary.stage_means(records)
    stages = ("prepro", *summary.stage_names(records), "postpro")
    usage, cores = added([stretch.usage for stretch in stretches]), usable_cores()
    seconds = usage.seconds or 1.0
    return Now(
        throughput=rate * settings.batch,
        p50_ms=latency.get("p50_us"),
        p95_ms=latency.get("p95_us"),
        p99_ms=latency.get("p99_us"),
        stages_us={name: means.get(name, 0.0) for name in stages} if requests else {},
        queue=rate * means["queue"] / 1e6 if "queue" in means else None,
        server=usage.server_s / seconds / cores if usage.is_known else None,
        clients=usage.client_s / seconds / cores,
        cores=cores,
        failures=len(failures),
        requests=requests,
        why=failures[0].message if failures else "",
    )


def request_rate(stretches: Sequence[Stretch]) -> float:
    """Return the requests per second answered while all clients were sending."""
    rates = [
        summary.closed_loop(stretch.records)
        if stretch.settings.arrivals == CLOSED
        else summary.open_loop(stretch.records, stretch.settings.rate)
        for stretch in stretches
    ]
    return summary.over_blocks(rates).get("request_rate", 0.0)


def _latency(records: Sequence[ClientRecord], closed: bool) -> dict[str, float | None]:
    found = summary.latency(records) if closed else summary.open_latency(records)
    return {name: value / 1000 if value is not None else None for name, value in found.items()}


HOLD_SECONDS = 3.0
PATIENCE_SECONDS = 15.0
"""So long a slow setting is waited for until its p95 can be certified."""

WARM_UP_SECONDS = 0.5
MOST_BLOCKS = 10
"""A setting that is held for longer adds nothing more."""

MOST_BYTES = 256 << 20


class Dot(NamedTuple):
    """One cell: reviews a second with their 95 % interval, the newest row, and what is wrong with it, if anything."""

    cell: Cell
    throughput: Estimate
    row: Row
    why: str

    @property
    def valid(self) -> bool:
        """False when a gate was not passed; drawn hollow."""
        return not self.why


class Block(NamedTuple):
    """The stretches that one row is made of."""

    row: Row
    rates: tuple[float, ...]
    records: tuple[ClientRecord, ...]


class HeldSettings:
    """The rows of all settings that were held long enough since the lab was opened."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._held: list[Stretch] = []
        self._warm = 0.0
        self._taken = 0
        self._unsaved: list[int] = []
        self._bytes = 0

    def leave(self) -> None:
        """Drop the current setting's stretches: the setting or the server has changed."""
        self._held, self._warm, self._taken = [], 0.0, 0

    def add(self, stretch: Stretch, context: Round) -> Row | None:
        """Take a stretch. Return a row when its setting has been held long enough."""
        if self._held and self._held[-1].settings != stretch.settings:
            self.leave()
        if self._warm < WARM_UP_SECONDS:
            self._warm += seconds_of(stretch)
            self._held = [stretch]  # to know what is held; it is left out below
            return None
        if self._taken >= MOST_BLOCKS:
            return None
        self._held.append(stretch)
        held = self._held[1:]
        seconds = sum(map(seconds_of, held))
        answered = sum(len(record.positions) for one in held for record in one.records)
        if seconds < HOLD_SECONDS or (answered < needed(0.95) and seconds < PATIENCE_SECONDS):
            return None
        self._held, self._taken = [stretch], self._taken + 1
        return self._land(held, context)

    def _land(self, held: Sequence[Stretch], context: Round) -> Row:
        cell = held[0].settings.cell
        earlier = sum(block.row.cell == cell for block in self._blocks)
        row = row_of(held, replace(context, number=earlier + 1), cell)
        records = tuple(record for stretch in held for record in stretch.records)
        for record in records:
            record.outcomes = []  # judged, and kept nowhere
            self._bytes += record.durations.nbytes
        rates = tuple(request_rate([stretch]) * cell.batch for stretch in held)
        self._unsaved.append(len(self._blocks))
        self._blocks.append(Block(row, rates, records))
        return row

    @property
    def judged(self) -> list[Row]:
        """All rows, in the order measured."""
        return [block.row for block in self._blocks]

    @property
    def full(self) -> bool:
        """True when enough raw samples are in memory that they should be saved."""
        return self._bytes > MOST_BYTES

    def rows(self) -> pd.DataFrame:
        """Return a table with a row for each time a setting was held, as a ledger's frame has them."""
        return frame(self.judged)

    def dots(self) -> list[Dot]:
        """Return a dot a cell, in the order measured."""
        cells = dict.fromkeys(block.row.cell for block in self._blocks)
        return [_dot(cell, [block for block in self._blocks if block.row.cell == cell]) for cell in cells]

    def save(self, ledger: Ledger) -> int:
        """Append the rows that are not in the ledger yet, with their raw samples. Return their number."""
        places, self._unsaved, self._bytes = self._unsaved, [], 0
        for place in places:
            block = self._blocks[place]
            row = ledger.append(block.row, block.records)
            self._blocks[place] = Block(row, block.rates, ())
        return len(places)


def seconds_of(stretch: Stretch) -> float:
    """Return how long a stretch's load lasted."""
    return CLOSED_SECONDS if stretch.settings.arrivals == CLOSED else OPEN_SECONDS


def row_of(held: Sequence[Stretch], context: Round, cell: Cell) -> Row:
    """Return the judged row of stretches under one setting."""
    blocks = [stretch.records for stretch in held]
    workload = context.workload(context.lines, cell.batch)
    records = [record for block in blocks for record in block]
    requests = sum(len(record.positions) + len(record.failures) for record in records)
    usage = added([stretch.usage for stretch in held])
    row = assess(context.row(cell), context, blocks, [workload] * len(records), requests, usage)
    # Published sums are of one client's share; not every review was sent here, so there is no digest of all answers.
    share = cell.samples / cell.batch / cell.client_threads
    sums = {name: mean * 1e-6 * share for name, mean in row.means_us.items()}
    figures = row.figures
    if row.answered and cell.arrivals == CLOSED:
        ceiling = client_ceiling(row, usable_cores())
        figures = msgspec.structs.replace(figures, of_ceiling=figures.request_rate / ceiling)
    return judged(msgspec.structs.replace(row, answers="", sums_s=sums, figures=figures))


def _dot(cell: Cell, blocks: Sequence[Block]) -> Dot:
    sound = [block for block in blocks if block.row.status == OK]
    rates = [rate for block in sound or blocks for rate in block.rates if rate > 0]
    return Dot(cell, estimate_positive(rates or [float("nan")]), blocks[-1].row, "" if sound else blocks[-1].row.why)


def closed(dots: Iterable[Dot]) -> list[Dot]:
    """Return the dots of closed loops, which have a place on time-versus-threads curves."""
    return [dot for dot in dots if dot.cell.arrivals == CLOSED]
