"""Estimates with confidence intervals across rounds, never across requests. Knows numbers and no cell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over the rounds and its confidence interval, which is NaN with one round."""

    mean: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """True when 0 lies inside, or nobody can tell: the value is not distinguishable from nothing."""
        return not (self.low > 0 or self.high < 0)


def estimate(values: Iterable[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean with Student's interval, which is what few rounds need."""
    numbers = np.asarray(list(values), dtype=float)
    mean = float(numbers.mean()) if len(numbers) else float("nan")
    if len(numbers) < 2:
        return Estimate(mean, float("nan"), float("nan"))
    half = half_width(numbers, confidence)
    return Estimate(mean, mean - half, mean + half)


def estimate_positive(values: Iterable[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return the geometric mean with its interval: for rates, times and ratios, whose noise is a share of them."""
    logs = estimate(np.log(np.asarray(list(values), dtype=float)), confidence)
    return Estimate(*(float(np.exp(value)) for value in logs))


def half_width(values: Iterable[float], confidence: float = CONFIDENCE) -> float:
    """Return half the width of the mean's interval."""
    numbers = np.asarray(list(values), dtype=float)
    spread = numbers.std(ddof=1) / np.sqrt(len(numbers))
    return float(stdtrit(len(numbers) - 1, (1 + confidence) / 2) * spread)
