"""Requests' lives from raw samples: which stage began and ended when, and on whose behalf. Knows rows; draws nothing.

A raw sample has when a request began and how long each stage took, in order; so its life is laid out from its begin.
What lies between two stages (docs/method.md holds it below 50 µs) is not seen. Which worker ran a request does not
travel: requests that ran at once are on different lanes, as few as it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from imdb_serving.bench.analysis.cells import measured, valid
from imdb_serving.bench.record.samples import read_samples
from imdb_serving.errors import DataError
from imdb_serving.report import frames
from imdb_serving.timing import NETWORK, WAYS

CLIENT_STAGES = ("prepro", "encode", "decode", "postpro")
QUEUE = "queue"


class Part(NamedTuple):
    """One stage of a request, in nanoseconds of the host's clock."""

    name: str
    start_ns: int
    end_ns: int


class Life(NamedTuple):
    """One request: whose it was, which of its client's, and its stages in order."""

    client: int
    position: int
    parts: tuple[Part, ...]

    @property
    def start_ns(self) -> int:
        """When it began."""
        return self.parts[0].start_ns

    @property
    def end_ns(self) -> int:
        """When it was over."""
        return self.parts[-1].end_ns

    @property
    def served(self) -> tuple[Part, ...]:
        """The stages in a worker's hands."""
        return tuple(part for part in self.parts if part.name not in {*CLIENT_STAGES, *WAYS, NETWORK, QUEUE})


def row_of(rows: pd.DataFrame, key: str) -> Any:
    """Return a cell's last sound round, else its last; the cell of the highest throughput where no key is given.

    Raises `DataError` when there is none.
    """
    grid = measured(frames.grid(rows))
    if not key and len(grid):
        sound = valid(grid) if len(valid(grid)) else grid
        key = str(sound.sort_values("throughput").iloc[-1]["key"])
    own = grid[grid["key"] == key]
    if own.empty:
        raise DataError("no cell was measured that could be traced")
    return (valid(own) if len(valid(own)) else own).iloc[-1]


def lives(folder: Path, row: Any, count: int) -> list[Life]:
    """Return so many requests from the middle of a row's run, all clients', in the order in which they began.

    Raises `DataError` when the raw samples are gone.
    """
    samples = read_samples(folder, str(row["raw"])).sort_values("start_ns").reset_index(drop=True)
    if samples.empty:
        raise DataError(f"{folder / str(row['raw'])} holds no request")
    first = max(0, (len(samples) - count) // 2)
    names = ["prepro", *row["stages"], "postpro"]
    chosen: Any = samples.iloc[first : first + count]
    return [_life(sample, names) for sample in chosen.to_dict("records")]


def median_life(folder: Path, row: Any) -> Life:
    """Return a request of a row that took as long as half of them did."""
    samples = read_samples(folder, str(row["raw"])).sort_values("total_ns").reset_index(drop=True)
    if samples.empty:
        raise DataError(f"{folder / str(row['raw'])} holds no request")
    return _life(samples.iloc[len(samples) // 2].to_dict(), ["prepro", *row["stages"], "postpro"])


def _life(sample: Any, names: Sequence[str]) -> Life:
    # An open loop's stamp is when a request was sent, so its prepro lies before.
    now = int(sample["start_ns"]) - (int(sample["prepro_ns"]) if "intended_ns" in sample else 0)
    parts = []
    for name in names:
        took = sum(int(sample.get(f"{one}_ns", 0)) for one in (WAYS if name == NETWORK else (name,)))
        parts.append(Part(name, now, now + took))
        now += took
    return Life(int(sample["client"]), int(sample["position"]), tuple(parts))


def in_lanes(spans: Iterable[tuple[int, int]]) -> list[int]:
    """Return a lane for each span, in the order given, so that no two that overlap share one; few lanes are used."""
    ordered = sorted(enumerate(spans), key=lambda pair: pair[1])
    free_from: list[int] = []
    lanes = [0] * len(ordered)
    for place, (start, end) in ordered:
        lane = next((number for number, free in enumerate(free_from) if free <= start), len(free_from))
        if lane == len(free_from):
            free_from.append(end)
        free_from[lane] = end
        lanes[place] = lane
    return lanes
