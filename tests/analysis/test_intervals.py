"""Intervals across rounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from imdb_serving.analysis.intervals import Estimate, estimate, estimate_positive


def test_the_interval_is_students() -> None:
    """Three values with mean 2 and standard deviation 1: half of it is 4.3027 / sqrt(3)."""
    assert estimate([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.48414, 2 + 2.48414), abs=1e-4)


def test_of_positive_values_shares_are_what_counts() -> None:
    mean, low, high = estimate_positive([100.0, 200.0, 400.0])
    assert mean == pytest.approx(200)
    assert low > 0
    assert low * high == pytest.approx(mean**2)


def test_one_round_has_no_interval_and_nothing_can_be_told() -> None:
    alone = estimate([5.0])
    assert alone.mean == 5.0
    assert math.isnan(alone.low)
    assert alone.holds_zero


def test_what_may_be_nothing_is_known_by_its_interval() -> None:
    assert Estimate(1.0, -0.5, 2.5).holds_zero
    assert not Estimate(1.0, 0.5, 1.5).holds_zero
    assert not Estimate(-1.0, -1.5, -0.5).holds_zero


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    held = sum(low <= 3 <= high for _, low, high in (estimate(generator.normal(3, 1, 5)) for _ in range(2000)))
    assert 0.93 < held / 2000 < 0.97
