"""Two sweeps compared: what all cells share, what single cells differ by beside that, and what could have been seen.

Each sweep's noise is found in the residuals of all its cells, moderated (Smyth 2004). The mean change of all cells is
tested apart, by the means of the rounds, which hold what drifts; a cell is tested against it, where drift is in
neither. A cell counts as changed only beyond the noise floor as well. Numbers in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from imdb_serving.analysis.cells import of_series
from imdb_serving.analysis.intervals import CONFIDENCE, Estimate
from imdb_serving.analysis.noise import Noise, noise_of
from imdb_serving.analysis.variances import Variance, combined, student
from imdb_serving.cell import Cell

SAME, BETTER, WORSE = "no difference", "better", "worse"

POWER = 0.8
"""The chance with which the least change that could have been seen is seen."""

OF_SHIFT, OF_CELLS = 0.975, 0.98
"""The confidence of the change that all cells share, and of all single cells together: both hold in 95 of 100."""

LEAST_ROUNDS = 2

Numbers = NDArray[np.float64]


class Difference(NamedTuple):
    """One cell's change of throughput from the first sweep to the second, as a share, and what that is called.

    The interval is that of the cell alone, at 95 %. `least` is the least loss that could have been seen.
    """

    cell: Cell
    change: Estimate
    rounds: int
    called: str
    least: float


class Compared(NamedTuple):
    """All that two sweeps share: the cells' changes, the change of all together, and the noise floor of a cell.

    `least` is the least loss of all cells together that could have been seen. `unstable` cells are in none of it.
    """

    cells: list[Difference]
    shift: Estimate
    called: str
    least: float
    floor: float
    unstable: list[Cell]

    @property
    def worse(self) -> bool:
        """Whether all together, or any cell, lost."""
        return self.called == WORSE or any(one.called == WORSE for one in self.cells)

    def unseen(self, loss: float) -> int:
        """Return of how many cells a loss of so large a share could not have been seen."""
        return sum(one.least > loss for one in self.cells)


def compare_rows(first: pd.DataFrame, second: pd.DataFrame) -> Compared:
    """Return the changes of every cell that both have with two valid rounds or more, in the first's order."""
    grids = of_series(first), of_series(second)
    shared = set(grids[0]["cell"]) & set(grids[1]["cell"])
    grids = grids[0][grids[0]["cell"].isin(shared)], grids[1][grids[1]["cell"].isin(shared)]
    noises = noise_of(grids[0]), noise_of(grids[1])
    places = _common(noises, grids)
    unstable = [cell for cell in dict.fromkeys(grids[0]["cell"]) if cell in _unstable(noises, grids)]
    if not places:
        unknown = Estimate(math.nan, math.nan, math.nan)
        return Compared([], unknown, SAME, math.nan, math.nan, unstable)
    change = np.array([noises[1].means[two] - noises[0].means[one] for _, one, two in places])
    doubts = [combined([*_own(noises[0], one), *_own(noises[1], two)]) for _, one, two in places]
    mean = float(change.mean())
    of_shift = combined([(1.0, _of_mean(noise)) for noise in noises])
    drift = combined([(1.0, noise.drift) for noise in noises])
    shift = _estimate(mean, of_shift, OF_SHIFT)
    called = _called(shift)
    confidence = 1 - (1 - OF_CELLS) / len(places)
    found = []
    for (cell, one, two), own, doubt in zip(places, change, doubts, strict=True):
        floor = _reach(doubt, confidence)
        apart = _estimate(own - mean, doubt, confidence) if len(places) > 1 else shift
        rounds = int(min(noises[0].counts[one], noises[1].counts[two]))
        what = called if _called(apart) == SAME else _called(apart)
        beyond = abs(own) > floor and (own > 0) == (what == BETTER)  # what others gained or lost is not its own
        alone = _estimate(own, combined([(1.0, doubt), (1.0, drift)]), CONFIDENCE)
        least = -math.expm1(-_least(doubt, confidence))
        found.append(Difference(cell, _share(alone), rounds, what if beyond else SAME, least))
    floor = float(np.median([_reach(doubt, confidence) for doubt in doubts]))
    least = -math.expm1(-_least(of_shift, OF_SHIFT))
    return Compared(found, _share(shift), called, least, math.expm1(floor), unstable)


def _common(noises: tuple[Noise, Noise], tables: tuple[pd.DataFrame, pd.DataFrame]) -> list[tuple[Cell, int, int]]:
    """Return the steady cells that both have with enough rounds, and their places in the arrays of each."""
    one, other = (_places(noise, rows) for noise, rows in zip(noises, tables, strict=True))
    return [(cell, one[cell], other[cell]) for cell in one if cell in other]


def _places(noise: Noise, rows: pd.DataFrame) -> dict[Cell, int]:
    cells = dict(zip(rows["key"], rows["cell"], strict=True))
    return {
        cells[key]: place
        for place, key in enumerate(noise.keys)
        if noise.counts[place] >= LEAST_ROUNDS and key not in noise.unstable
    }


def _unstable(noises: tuple[Noise, Noise], tables: tuple[pd.DataFrame, pd.DataFrame]) -> set[Cell]:
    """Return the cells that are unstable in either sweep."""
    pairs = zip(noises, tables, strict=True)
    return {cell for noise, rows in pairs for cell in rows.loc[rows["key"].isin(list(noise.unstable)), "cell"]}


def _own(noise: Noise, place: int) -> list[tuple[float, Variance]]:
    return [(1 / noise.counts[place], noise.of_cell(place))]


def _of_mean(noise: Noise) -> Variance:
    """Return the variance of the mean of all cells: that of the rounds' means, if it is more than noise makes."""
    rounds = noise.of_rounds
    return Variance(rounds.value / len(noise.effects), rounds.freedom)


def _estimate(mean: float, doubt: Variance, confidence: float) -> Estimate:
    reach = _reach(doubt, confidence)
    return Estimate(mean, mean - reach, mean + reach)


def _reach(doubt: Variance, confidence: float) -> float:
    return student(doubt.freedom, confidence) * math.sqrt(doubt.value) if doubt.freedom else math.inf


def _least(doubt: Variance, confidence: float) -> float:
    """Return the least change, in logarithms, that is seen with the chance `POWER`."""
    if not doubt.freedom:
        return math.inf
    return _reach(doubt, confidence) + float(stdtrit(doubt.freedom, POWER)) * math.sqrt(doubt.value)


def _share(logs: Estimate) -> Estimate:
    return Estimate(*(math.expm1(value) if value < 700 else math.inf for value in logs))


def _called(change: Estimate) -> str:
    if change.holds_zero:
        return SAME
    return BETTER if change.mean > 0 else WORSE


MACHINE = ("cpu", "architecture", "cores", "cores_allowed", "cpu_quota", "smt", "governor", "boost")
"""What has to be alike for two sweeps to be compared; software and code may differ, for they are what is compared."""


def machine_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return in which facts two machines differ, each with both values: then their numbers are not comparable."""
    pairs = {name: (first.get(name), second.get(name)) for name in MACHINE}
    return [f"{name}: {one} and {other}" for name, (one, other) in pairs.items() if one != other]


def software_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return in which versions, code and choices of kernel two sweeps differ: what a change may come from."""
    one, other = (_software(card) for card in (first, second))
    names = sorted({*one, *other})
    differ = [name for name in names if one.get(name) != other.get(name)]
    return [f"{name} {one.get(name, 'none')} and {other.get(name, 'none')}" for name in differ]


def _software(card: Mapping[str, Any]) -> dict[str, str]:
    kernels = {
        f"kernel of {name}": what["variant"] for name, what in card.get("engines", {}).items() if what["variant"]
    }
    own = {name: str(card[name]) for name in ("python", "git", "code") if name in card}
    return {**own, **card.get("packages", {}), **kernels}
