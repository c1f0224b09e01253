"""A search replayed on a full sweep: of each round it sees only the cells that it would have measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd

from imdb_serving.analysis.cells import cells, frame, of_series
from imdb_serving.analysis.search import Search, chooser_of
from imdb_serving.analysis.selection import BY_THROUGHPUT
from imdb_serving.analysis.sequential import confidence_at
from imdb_serving.cell import AA_REPEAT, GRID, Cell, Row
from imdb_serving.experiment.plan import PAIR_CLIENTS

ZONE = 0.05


class Replay(NamedTuple):
    """What a search recommends, whether that is shown, and the share of the grid's cell rounds that it measured."""

    cell: Cell
    shown: bool
    share: float
    rounds: int


def replay(rows: Sequence[Row], rounds: int) -> Replay:
    """Search a grid of which all cells have rows, in twice as many rounds as the whole grid would have."""
    grid = {row.key: row.cell for row in rows if row.cell.series == GRID}
    found = {(row.key, row.round): row for row in rows if row.cell.series == GRID}
    of_round = len([row for row in rows if row.round == 1])
    search, seen, number = Search(grid, rounds, of_round, ZONE, BY_THROUGHPUT), [], 0
    while keys := search.next(frame(seen)).keys:
        number += 1
        pair = [row for row in rows if row.cell.series == AA_REPEAT and row.round == number]
        seen += [found[key, number] for key in keys]
        seen += sorted(pair, key=lambda row: row.cell.client_threads)[-PAIR_CLIENTS:]
    chosen, shown = recommended(frame(seen), confidence_at(number, search.looks))
    return Replay(grid[chosen], shown, len(seen) / (of_round * rounds), number)


def recommended(rows: pd.DataFrame, confidence: float = 0.95) -> tuple[str, bool]:
    """Return the key of the cell that these rows recommend, and whether that is shown."""
    grid = of_series(rows)
    chooser, table = chooser_of(grid, ZONE, BY_THROUGHPUT, confidence), cells(grid)
    choice = chooser.choose(table[table["key"].isin(chooser.sound)])
    assert choice is not None
    return str(chooser.noise.keys[choice.chosen]), choice.shown


def shuffled_rounds(rows: Sequence[Row], seed: int) -> list[Row]:
    """Return the rows as if their rounds had been measured in another order."""
    numbers = sorted({row.round for row in rows})
    order = dict(zip(numbers, np.random.default_rng(seed).permutation(numbers).tolist(), strict=True))
    return [msgspec.structs.replace(row, round=order[row.round]) for row in rows]
