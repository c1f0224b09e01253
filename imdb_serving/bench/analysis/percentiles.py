"""Percentiles that say how sure they are. Knows samples and no cell.

The bounds are of order statistics, as in MLPerf's early stopping: of n requests, those that are slower than the true
percentile are the successes of n trials with probability 1 - q, whatever the distribution of the times.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from scipy.special import bdtr, bdtrik

CONFIDENCE = 0.99


@functools.lru_cache
def needed(quantile: float, confidence: float = CONFIDENCE) -> int:
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


def interval(times: Any, quantile: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval that holds the true percentile with this confidence, from order statistics.

    An end that the samples cannot tell is infinite.
    """
    ordered = np.sort(np.asarray(times, dtype=float))
    low = math.ceil(bdtrik((1 - confidence) / 2, len(ordered), quantile))
    high = math.ceil(bdtrik((1 + confidence) / 2, len(ordered), quantile)) + 1
    return (
        float(ordered[low - 1]) if low >= 1 else -math.inf,
        float(ordered[high - 1]) if high <= len(ordered) else math.inf,
    )
