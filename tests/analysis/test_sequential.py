"""Looks at results round after round: all of them together err as often as one may."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from imdb_serving.analysis.sequential import confidence_at


def test_the_boundaries_are_those_of_the_literature() -> None:
    """O'Brien and Fleming's, as Lan and DeMets spend 0.025 one-sided over five looks; ours has none at the first."""
    found = [float(ndtri(confidence_at(look, 5, 0.975))) for look in (2, 3, 4, 5)]
    assert found == pytest.approx([3.357, 2.680, 2.290, 2.031], abs=0.015)


@pytest.mark.parametrize("looks", [2, 4, 6, 12])
def test_all_looks_together_err_as_often_as_one_may(looks: int) -> None:
    boundaries = np.array([ndtri(min(confidence_at(look, looks), 1 - 1e-15)) for look in range(1, looks + 1)])
    steps = np.random.default_rng(1).normal(size=(200_000, looks)).cumsum(axis=1)
    crossed = (steps / np.sqrt(np.arange(1, looks + 1)) > boundaries)[:, 1:].any(axis=1).mean()
    assert crossed == pytest.approx(0.05, abs=0.003)


def test_the_first_look_decides_nothing_and_the_last_needs_little_more_than_one_would() -> None:
    assert confidence_at(1, 6) == 1.0
    assert confidence_at(2, 6) > confidence_at(4, 6) > confidence_at(6, 6) > 0.95
    assert confidence_at(6, 6) < 0.965
    assert confidence_at(9, 6) == confidence_at(6, 6)
