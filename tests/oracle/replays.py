"""A search replayed on a full sweep: of each round it sees only the cells that it would have measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd
from oracle import CORES

from imdb_serving.analysis.cells import cells, frame, of_series
from imdb_serving.analysis.intervals import CONFIDENCE
from imdb_serving.analysis.search import Search, chooser_of
from imdb_serving.analysis.selection import BY_THROUGHPUT, Selection
from imdb_serving.analysis.sequential import confidence_at
from imdb_serving.cell import AA_REPEAT, GRID, Cell, Row
from imdb_serving.experiment.plan import PAIR_CLIENTS

ZONE = 0.05


class Replay(NamedTuple):
    """What a search recommends, if anything, whether that is shown, and the share of cell rounds that it measured."""

    cell: Cell | None
    shown: bool
    share: float
    rounds: int


def replay(rows: Sequence[Row], rounds: int, selection: Selection = BY_THROUGHPUT, cores: float = CORES) -> Replay:
    """Search a grid of which all cells have rows, in twice as many rounds as the whole grid would have."""
    grid = {row.key: row.cell for row in rows if row.cell.series == GRID}
    found = {(row.key, row.round): row for row in rows if row.cell.series == GRID}
    of_round = len([row for row in rows if row.round == 1])
    search, seen, number = Search(grid, rounds, of_round, ZONE, selection, cores), [], 0
    while (step := search.next(frame(seen))).keys:
        number += 1
        pair = [row for row in rows if row.cell.series == AA_REPEAT and row.round == number]
        seen += [found[key, number] for key in step.keys]
        seen += sorted(pair, key=lambda row: row.cell.client_threads)[-PAIR_CLIENTS:]
    chosen = recommended(frame(seen), selection, confidence_at(number, search.looks))
    return Replay(chosen, step.shown, len(seen) / (of_round * rounds), number)


def recommended(
    rows: pd.DataFrame, selection: Selection = BY_THROUGHPUT, confidence: float = CONFIDENCE
) -> Cell | None:
    """Return the cell that these rows recommend."""
    grid = of_series(rows)
    chooser, table = chooser_of(grid, ZONE, selection, confidence), cells(grid)
    choice = chooser.choose(table[table["key"].isin(chooser.sound)])
    if choice is None:
        return None
    found: Cell = table.set_index("key").loc[chooser.noise.keys[choice.chosen], "cell"]
    return found


def shuffled_rounds(rows: Sequence[Row], seed: int) -> list[Row]:
    """Return the rows as if their rounds had been measured in another order."""
    numbers = sorted({row.round for row in rows})
    order = dict(zip(numbers, np.random.default_rng(seed).permutation(numbers).tolist(), strict=True))
    return [msgspec.structs.replace(row, round=order[row.round]) for row in rows]
