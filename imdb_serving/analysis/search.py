"""Which cells of a grid to measure next, so that few rounds of few cells find what rounds of all would recommend.

Successive halving: a first round of some cells of every curve, then those that could still be the answer, with the
unmeasured neighbours of the best. After every round it looks whether the recommendation is shown; the looks are paid
for (`sequential`). Numbers and cells in, keys out: it starts nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from imdb_serving.analysis.cells import cells, of_series
from imdb_serving.analysis.choice import Choice, contenders
from imdb_serving.analysis.choosing import Chooser
from imdb_serving.analysis.noise import Noise, noise_of
from imdb_serving.analysis.selection import P99, Selection
from imdb_serving.analysis.sequential import FIRST_LOOK, confidence_at
from imdb_serving.analysis.upper_bounds import most_of_each
from imdb_serving.cell import Cell

SHARE = 0.335
"""The most cell rounds that a search measures, as a share of those of the whole grid."""

LOOKS = 2
"""A search has so many times as many rounds as the whole grid, each of few cells."""

LEAST_CELLS = 4
"""Of a round, however small the grid is."""

SERVER_COUNTS = 4
"""Of a curve's server threads in the first round."""

FIRST_CUT = 0.3
"""After one round, when nothing is known of the noise, cells that far behind the best are left out; of logarithms."""

RESERVE = 6
"""Cell rounds that are kept for what the last unmeasured cells show."""

AMPLE = 8
"""Where so many times as many cell rounds are left, what was not measured beside any contender is as well."""

AXES = ("client_threads", "server_threads", "math_threads", "server_processes", "server_nodes")


class Known(NamedTuple):
    """What is known in the middle of a search: the key of the cell that it would choose, and its throughput.

    `contenders` is how many others may be the best as well.
    """

    key: str
    throughput: float
    contenders: int


class Step(NamedTuple):
    """The keys of the cells to measure in the next round; none where the search is over, and whether that is shown.

    `known` is what can be said so far, None where that is nothing.
    """

    keys: list[str]
    shown: bool = False
    known: Known | None = None


@dataclass(frozen=True)
class Search:
    """A search over the cells of a grid, by key.

    The whole grid would have `rounds` rounds of `cells` cells, the A/A pair's second included. `cores` are those that
    the machine allows.
    """

    grid: Mapping[str, Cell]
    rounds: int
    cells: int
    zone: float
    selection: Selection
    cores: float

    @property
    def looks(self) -> int:
        """The most rounds of the search."""
        return LOOKS * self.rounds

    @property
    def budget(self) -> int:
        """The most cell rounds of the search, the A/A pair's second included."""
        return max(int(SHARE * self.cells * self.rounds), LEAST_CELLS * FIRST_LOOK)

    def next(self, rows: pd.DataFrame) -> Step:
        """Return what to measure behind these rows of the run, those of the A/A pair and of other cells included."""
        if rows.empty:
            return Step(self._first())
        grid = of_series(rows)
        grid = grid[grid["key"].isin(list(self.grid))]
        look = int(grid["round"].max())
        left = self.budget - len(rows)
        chooser = chooser_of(grid, self.zone, self.selection, confidence_at(look, self.looks))
        table = cells(grid)
        sound = table[table["key"].isin(chooser.sound)]
        doubtful = grid[~grid["key"].isin(chooser.sound)].drop_duplicates("key")
        most = most_of_each(doubtful, sound, chooser.noise, self.cores)
        choice = chooser.choose(sound, most) if len(sound) else None
        measured = set(grid["key"])
        order = self._order(chooser, choice, look, measured)
        near = self._unmeasured_beside(self._middle(chooser, choice), measured)
        shown = choice is not None and look >= FIRST_LOOK and _settled(chooser, choice)
        known = _known(chooser.noise, choice) if choice else None
        if look >= self.looks or left < 1:
            return Step([], shown, known)
        if shown and not near:
            others = self._unmeasured(table)[: max(left - RESERVE, 0)]
            return Step([*order[:1], *others] if others else [], shown, known)
        count = max(left // (self.looks - look), min(LEAST_CELLS, left))
        again = _again(grid, [doubtful["key"].iloc[at] for at in choice.deciding] if choice else [])
        contenders = [chooser.noise.keys[place] for place in choice.contenders] if choice else []
        wider = self._unmeasured_beside(contenders, measured)
        if left >= AMPLE * len(wider):
            near = [*near, *wider]
        return Step(list(dict.fromkeys([*order[:2], *again, *near, *order[2:]]))[:count], shown, known)

    def _unmeasured(self, table: pd.DataFrame) -> list[str]:
        """Return the cells that were not measured, those first whose servers gave most."""
        best: dict[Cell, float] = {}
        for cell, rate in zip(table["cell"], table["throughput"], strict=True):
            server = cell.without("client_threads")
            best[server] = max(best.get(server, 0.0), float(rate))
        others = [key for key in self.grid if key not in set(table["key"])]
        return sorted(others, key=lambda key: -best.get(self.grid[key].without("client_threads"), 0.0))

    def _first(self) -> list[str]:
        """Return some cells of every curve: the middle and the most clients, at some of its server threads."""
        curves: dict[Cell, list[str]] = {}
        for key, cell in self.grid.items():
            curves.setdefault(cell.without("client_threads", "server_threads"), []).append(key)
        return [key for keys in curves.values() for key in self._at_some_servers(keys)]

    def _at_some_servers(self, keys: Sequence[str]) -> Iterator[str]:
        counts = sorted({self.grid[key].server_threads for key in keys})
        places = np.linspace(0, len(counts) - 1, min(SERVER_COUNTS, len(counts))).round().astype(int)
        for count in (counts[place] for place in places):
            own = sorted(
                (key for key in keys if self.grid[key].server_threads == count),
                key=lambda key: self.grid[key].client_threads,
            )
            yield from dict.fromkeys([own[len(own) // 2], own[-1]])

    def _order(self, chooser: Chooser, choice: Choice | None, look: int, measured: set[Hashable]) -> list[str]:
        """Return the cells that could still be the answer, the most promising first."""
        noise = chooser.noise
        rates = dict(zip(noise.keys, noise.means, strict=True))
        able = [key for key in sorted(chooser.sound, key=lambda key: -rates.get(key, -np.inf)) if key in rates]
        doubtful = sorted(measured - set(chooser.sound), key=str)
        if choice is None or not able:
            least = (
                [chooser.tails.keys[place] for place in np.argsort(chooser.tails.means)]
                if chooser.selection.by == P99
                else []
            )
            return [str(key) for key in [*least, *able, *doubtful]]
        first = [noise.keys[choice.chosen], noise.keys[choice.best]]
        if look < FIRST_LOOK:
            possible = [key for key in able if rates[key] > rates[able[0]] - FIRST_CUT]
        else:
            places = [place for key in able if (place := noise.place(key)) is not None]
            possible = [noise.keys[place] for place in contenders(noise, places, chooser.confidence)]
        if chooser.selection.by == P99:
            open_ = set(chooser.holders.sure) | set(chooser.holders.unsure)
            possible = sorted((key for key in able if key in open_), key=chooser.exceeds)  # by throughput as well
        return [str(key) for key in dict.fromkeys([*first, *possible, *doubtful])]

    def _middle(self, chooser: Chooser, choice: Choice | None) -> list[Hashable]:
        """Return the chosen cell and the best, or of cells of which none can be chosen the one nearest to the limit."""
        if choice is not None:
            return [chooser.noise.keys[choice.chosen], chooser.noise.keys[choice.best]]
        if chooser.selection.by == P99 and len(chooser.tails.keys):
            return [chooser.tails.keys[int(np.argmin(chooser.tails.means))]]
        return []

    def _unmeasured_beside(self, middle: Sequence[Hashable], measured: Set[Hashable]) -> list[str]:
        """Return what was not measured beside these cells: the next of each axis, on each side."""
        beside = [key for one in middle for key in neighbours(self.grid, str(one))]
        return [key for key in dict.fromkeys(beside) if key not in measured]


def _known(noise: Noise, choice: Choice) -> Known:
    chosen, others = choice.chosen, set(choice.contenders) - {choice.chosen}
    return Known(str(noise.keys[chosen]), math.exp(noise.means[chosen]), len(others))


def _settled(chooser: Chooser, choice: Choice) -> bool:
    """Tell whether a choice is shown, and no cell is left of which it is not known whether it is the better one."""
    return choice.shown and not choice.deciding and not chooser.may_hold(choice)


def _again(grid: pd.DataFrame, deciding: Sequence[Hashable]) -> list[str]:
    """Return which of the doubtful cells that could be the answer to measure again before others."""
    times = Counter(grid["key"])
    return [str(key) for key in deciding if times[key] < FIRST_LOOK]


def chooser_of(grid: pd.DataFrame, zone: float, selection: Selection, confidence: float) -> Chooser:
    """Return what chooses among the cells of these rows that can be believed."""
    noise, table = noise_of(grid), cells(grid)
    sound = table.loc[table["valid"].astype(bool) & ~table["key"].isin(list(noise.unstable)), "key"]
    return Chooser(grid, noise, list(sound), zone, selection, confidence)


def neighbours(grid: Mapping[str, Cell], key: str) -> Iterator[str]:
    """Yield the cells that differ from one in one axis, by one step to either side."""
    one = grid[key]
    for axis in AXES:
        alike = {getattr(cell, axis): other for other, cell in grid.items() if cell.without(axis) == one.without(axis)}
        counts = sorted(alike)
        place = counts.index(getattr(one, axis))
        yield from (alike[count] for count in counts[max(place - 1, 0) : place + 2] if alike[count] != key)
