"""Confidence intervals across rounds, never across requests; and how many requests a percentile needs.

That is by order statistics, as in MLPerf's early stopping: of n requests, those slower than the true percentile are the
successes of n trials with probability 1 - q, whatever the distribution of the times.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import bdtr, stdtrit

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over the rounds and its confidence interval, which is NaN with one round."""

    mean: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """True when 0 lies inside the interval, or it is unknown: the value cannot be told from 0."""
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


PERCENTILE_CONFIDENCE = 0.99


@functools.lru_cache
def needed(quantile: float, confidence: float = PERCENTILE_CONFIDENCE) -> int:
    """Return the least number of requests that can certify a percentile: p90 64, p95 130, p99 662, p99.9 6,636.

    Of so many, two at least are slower than the true percentile, with that confidence: with fewer, one slow request
    more or less would move what is told beyond all that was seen. Source: MLPerf inference, early stopping.
    """
    count = 2
    while bdtr(1, count, 1 - quantile) > 1 - confidence:
        count += 1
    return count


def certified(times: Any, quantile: float) -> float | None:
    """Return a percentile of `times`, None when there are too few for it."""
    return float(np.quantile(times, quantile)) if len(times) >= needed(quantile) else None
