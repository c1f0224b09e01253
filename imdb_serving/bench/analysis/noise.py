"""The noise floor: what two measurements of one thing differ by. Nothing below it is told as a difference."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from imdb_serving.bench.analysis.cells import twin_differences
from imdb_serving.bench.analysis.intervals import half_width

LEAST_PAIRS = 3
UNKNOWN = 0.05
"""Taken where a sweep has no A/A pair, or one of too few rounds: a guess, and said to be one."""


class Noise(NamedTuple):
    """The A/A pair's mean difference (a share), the floor under which nothing is told, and from how many pairs.

    The floor is for the mean over the rounds of one cell, and `known` is false where it is a guess.
    """

    difference: float
    floor: float
    pairs: int
    known: bool


def noise_of(rows: pd.DataFrame) -> Noise:
    """Return the noise of a sweep from its A/A pair: the pair's difference, or its interval for a cell's rounds."""
    differences = twin_differences(rows)
    pairs = len(differences)
    if pairs < LEAST_PAIRS:
        return Noise(float("nan"), UNKNOWN, pairs, known=False)
    values = differences["difference"].to_numpy()
    rounds = int(differences["round"].nunique())
    # The spread of a single pair, scaled to the mean of as many as a cell has rounds.
    floor = half_width(values) * np.sqrt(pairs / rounds)
    mean = float(np.mean(values))
    return Noise(float(np.expm1(mean)), float(np.expm1(max(floor, abs(mean)))), pairs, known=True)
