"""Which rounds of cells lie further off the others than noise and drift explain. Logarithms, cells by rounds."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

Numbers = NDArray[np.float64]

UNSTABLE = 4.5
"""Times the spread of a round that one may lie off its cell's median before the cell is unstable."""

LEAST_SPREAD = 0.01
"""Rounds of few cells may agree by luck; nobody's rounds agree better than this."""

ENOUGH_CELLS = 4
"""Cells of a mode and engine from which on their own spread is used beside that of all."""


class Outliers(NamedTuple):
    """The rounds of a cell that lie off its others, by column, what was seen, and whether they are too many."""

    rounds: list[int]
    seen: str
    too_many: bool


def outliers_of(table: Numbers, strata: NDArray[np.int64]) -> dict[int, Outliers]:
    """Return the cells that have rounds which noise and drift do not explain, by place.

    Medians keep an outlier from hiding itself. One round in four may be one, of three none: more are too many.
    """
    left = table - _median(table, 1)[:, None]
    left = left - _median(left, 0)
    left = left - _median(left, 1)[:, None]
    counts = np.isfinite(left).sum(axis=1)
    spreads = _spreads(table - _median(table - _median(table, 1)[:, None], 0), counts)
    known = np.isfinite(spreads)
    if known.sum() < ENOUGH_CELLS:
        return {}
    common, found = float(np.median(spreads[known])), {}
    for stratum in range(strata.max() + 1):
        own = spreads[known & (strata == stratum)]
        spread = max(common, float(np.median(own)) if len(own) >= ENOUGH_CELLS else 0.0, LEAST_SPREAD)
        for place in np.flatnonzero(strata == stratum):
            off = np.abs(np.nan_to_num(left[place]))
            rounds = np.flatnonzero(off > UNSTABLE * spread)
            if len(rounds):
                seen = (
                    f"a round is {np.expm1(off.max()):.0%} off the cell's others, more than the noise of "
                    f"{np.expm1(UNSTABLE * spread):.0%}"
                )
                found[int(place)] = Outliers(list(map(int, rounds)), seen, len(rounds) > counts[place] // 4)
    return found


def _median(table: Numbers, axis: int) -> Numbers:
    if not table.size:
        return np.zeros(table.shape[1 - axis])
    return np.nanmedian(table, axis=axis)


def _spreads(table: Numbers, counts: NDArray[np.int64]) -> Numbers:
    """Return each cell's standard deviation over the rounds, scaled so that their median is that of one of them all."""
    result = np.full(len(table), np.nan)
    for count in set(counts[counts > 1]):
        typical = math.sqrt(float(chdtri(count - 1, 0.5)) / (count - 1))
        of_count = counts == count
        result[of_count] = np.nanstd(table[of_count], axis=1, ddof=1) / typical
    return result
