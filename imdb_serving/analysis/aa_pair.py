"""The A/A pair: one grid run of every round, measured twice. It checks the noise that was found in the cells."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from imdb_serving.analysis.cells import valid
from imdb_serving.analysis.noise import Noise
from imdb_serving.cell import AA_REPEAT, GRID, Cell

Check = Literal["", "noisier", "quieter"]
NOISIER: Check = "noisier"
QUIETER: Check = "quieter"


class Pair(NamedTuple):
    """The A/A pair: `pairs` were measured, with the root mean square of their differences, NaN without any.

    `check` says how that compares with the noise of all cells: `noisier`, `quieter`, or empty where they agree.
    """

    pairs: int
    difference: float
    check: Check


ODD = 0.001
"""The chance below which the pair's noise is not that of the cells."""


def aa_pair(rows: pd.DataFrame, noise: Noise) -> Pair:
    """Return what the A/A pair of a sweep says, and whether it agrees with the noise of its cells."""
    found = aa_differences(rows)
    if found.empty:
        return Pair(0, math.nan, "")
    return Pair(len(found), math.sqrt(float((found["difference"] ** 2).mean())), _check(found, _mode(rows), noise))


def _check(differences: pd.DataFrame, mode: tuple[str, str], noise: Noise) -> Check:
    """Compare the pair's mean differences of whole server processes, which are independent, with what noise makes."""
    if not noise.known or differences["round"].nunique() < 2 or mode not in noise.modes:
        return ""
    by_round: Any = differences.groupby("round")["difference"]
    size = float(by_round.size().mean())
    own = noise.components[noise.modes.index(mode)]
    within = own.within.value if own.within.freedom else own.whole.value
    expected = 2 * (max(own.whole.value - within, 0.0) + within / size)
    squares = float((by_round.mean() ** 2).sum())
    rounds = differences["round"].nunique()
    if not expected:
        return ""
    chance = float(chdtrc(rounds, squares / expected))
    return NOISIER if chance < ODD else QUIETER if chance > 1 - ODD else ""


def _mode(rows: pd.DataFrame) -> tuple[str, str]:
    """Return the mode and engine of the pair."""
    pair = rows[rows["series"] == AA_REPEAT].iloc[0]
    return str(pair["mode"]), str(pair["engine"])


def aa_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the relative differences of the A/A pair: a row a round and client count, empty without a pair.

    `difference` is the logarithm of the ratio of the two throughputs, measured as two cells of one round would be.
    """
    pairs: dict[tuple[Cell, int], dict[str, float]] = {}
    sound: Any = valid(rows)
    for row in sound.itertuples():
        if row.series in {GRID, AA_REPEAT}:
            pairs.setdefault((row.cell.without("series"), row.round), {})[row.series] = row.throughput
    table = [
        (cell.client_threads, number, float(np.log(two[AA_REPEAT] / two[GRID])))
        for (cell, number), two in pairs.items()
        if len(two) == 2
    ]
    return pd.DataFrame(table, columns=["client_threads", "round", "difference"])
