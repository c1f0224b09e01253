"""Percentiles: how many requests they need."""

from __future__ import annotations

import numpy as np
import pytest

from imdb_serving.analysis.intervals import certified, needed


@pytest.mark.parametrize(("quantile", "count"), [(0.9, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_a_percentile_needs_as_many_requests_as_mlperf_wants(quantile: float, count: int) -> None:
    assert needed(quantile) == count
    times = np.arange(count, dtype=float)
    assert certified(times[:-1], quantile) is None
    assert certified(times, quantile) == pytest.approx(np.quantile(times, quantile))
