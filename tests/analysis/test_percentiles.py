"""Percentiles: how many requests they need, and the interval that holds them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from imdb_serving.analysis.intervals import certified, interval, needed


@pytest.mark.parametrize(("quantile", "count"), [(0.9, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_a_percentile_needs_as_many_requests_as_mlperf_wants(quantile: float, count: int) -> None:
    assert needed(quantile) == count
    times = np.arange(count, dtype=float)
    assert certified(times[:-1], quantile) is None
    assert certified(times, quantile) == pytest.approx(np.quantile(times, quantile))


def test_the_interval_holds_the_true_percentile_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        low, high = interval(generator.uniform(size=300), 0.9)
        held += low <= 0.9 <= high
    assert held >= 980  # 99 % of 1,000, less three times the spread of such a count


def test_an_end_that_the_samples_cannot_tell_is_infinite() -> None:
    low, high = interval([1.0, 2.0, 3.0], 0.99)
    assert high == math.inf
    assert low <= 3.0
    assert interval([1.0, 2.0, 3.0], 0.01)[0] == -math.inf
