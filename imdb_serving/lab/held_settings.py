"""Settings that were held long enough: their stretches of load become judged rows, and the rows dots with intervals.

A dot follows the rules of a sweep as far as a live view can: the time after a change is left out, every answer is
compared with the bare engine's, and every gate is passed or named. It has no rounds with new servers in shuffled order:
its interval is over stretches of one server's life, so a verdict needs a sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec
import pandas as pd

from imdb_serving.analysis.intervals import Estimate, estimate_positive, needed
from imdb_serving.cell import CLOSED, Cell
from imdb_serving.lab.live import request_rate
from imdb_serving.lab.testbed import CLOSED_SECONDS, OPEN_SECONDS, Stretch
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.load.workload import ReviewWorkload
from imdb_serving.measurement.cpu_meter import added
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.machine import allowed
from imdb_serving.measurement.measure import Round, assess, client_ceiling, judged
from imdb_serving.rows import OK, Row, frame

HOLD_SECONDS = 3.0
PATIENCE_SECONDS = 15.0
"""So long a slow setting is waited for until its p95 can be certified."""

WARM_UP_SECONDS = 0.5
MOST_BLOCKS = 10
"""A setting that is held for longer adds nothing more."""

MOST_BYTES = 256 << 20


class Dot(NamedTuple):
    """One cell as it landed: reviews a second with their 95 % interval, the newest row, and what is wrong, if so."""

    cell: Cell
    throughput: Estimate
    row: Row
    why: str

    @property
    def valid(self) -> bool:
        """False when a gate was broken: drawn hollow."""
        return not self.why


class Block(NamedTuple):
    """What one row stands on."""

    row: Row
    rates: tuple[float, ...]
    records: tuple[ClientRecord, ...]


class HeldSettings:
    """All that was held long enough since the lab was opened."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._held: list[Stretch] = []
        self._warm = 0.0
        self._taken = 0
        self._unsaved: list[int] = []
        self._bytes = 0

    def leave(self) -> None:
        """Forget what is under way: the setting, or the server, is another from here on."""
        self._held, self._warm, self._taken = [], 0.0, 0

    def add(self, stretch: Stretch, context: Round) -> Row | None:
        """Take a stretch; return the row when its setting has been held long enough for one."""
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
        """All rows, in the order in which they landed."""
        return [block.row for block in self._blocks]

    @property
    def full(self) -> bool:
        """True when enough raw samples are in memory that they should be saved."""
        return self._bytes > MOST_BYTES

    def rows(self) -> pd.DataFrame:
        """Return a table with a row for each time a setting was held, as a ledger's frame has them."""
        return frame(self.judged)

    def dots(self) -> list[Dot]:
        """Return a dot a cell, in the order first visited."""
        cells = dict.fromkeys(block.row.cell for block in self._blocks)
        return [_dot(cell, [block for block in self._blocks if block.row.cell == cell]) for cell in cells]

    def save(self, ledger: Ledger) -> int:
        """Append to a ledger what is not there yet, raw samples included; return how many rows that were."""
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
    workload = ReviewWorkload(context.lines, "ids", None, batch=cell.batch)
    records = [record for block in blocks for record in block]
    requests = sum(len(record.positions) + len(record.failures) for record in records)
    usage = added([stretch.usage for stretch in held])
    row = assess(context.row(cell), context, blocks, [workload] * len(records), requests, usage)
    # Published sums are of one client's share; not every review was sent here, so there is no digest of all answers.
    share = cell.samples / cell.batch / cell.client_threads
    sums = {name: mean * 1e-6 * share for name, mean in row.means_us.items()}
    figures = row.figures
    if row.answered and cell.arrivals == CLOSED:
        ceiling = client_ceiling(row, len(allowed()))
        figures = msgspec.structs.replace(figures, of_ceiling=figures.request_rate / ceiling)
    return judged(msgspec.structs.replace(row, answers="", sums_s=sums, figures=figures))


def _dot(cell: Cell, blocks: Sequence[Block]) -> Dot:
    sound = [block for block in blocks if block.row.status == OK]
    rates = [rate for block in sound or blocks for rate in block.rates if rate > 0]
    return Dot(cell, estimate_positive(rates or [float("nan")]), blocks[-1].row, "" if sound else blocks[-1].row.why)


def closed(dots: Iterable[Dot]) -> list[Dot]:
    """Return the dots of closed loops, which have a place on time-versus-threads curves."""
    return [dot for dot in dots if dot.cell.arrivals == CLOSED]
