"""The figures of a cell, against records worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from imdb_serving.bench.loadgen import ClientRecord
from imdb_serving.bench.summary import latency, stage_means, stage_sums, summarise, wall_seconds
from imdb_serving.timing import STAGES

COLUMNS = ("prepro", "client_infer", "op1", "postpro", "total")
MS = 1_000_000


def record(rows: Sequence[Sequence[int]], window_ms: tuple[int, int]) -> ClientRecord:
    """A client's record of requests given in milliseconds a column."""
    return ClientRecord(
        columns=COLUMNS if rows else (),
        positions=list(range(len(rows))),
        starts_ns=np.arange(len(rows)),
        durations=np.array(rows, dtype=np.int64) * MS if rows else np.empty((0, 0), np.int64),
        window_ns=(window_ms[0] * MS, window_ms[1] * MS),
    )


FIRST = record([(1, 10, 4, 2, 13), (3, 20, 6, 2, 25)], (1000, 1500))
SECOND = record([(2, 30, 8, 4, 36)], (1100, 3000))
BOTH = [FIRST, SECOND]


def test_sums_are_seconds_per_client_averaged_over_the_clients() -> None:
    sums = stage_sums(BOTH)
    assert sums["prepro_s"] == pytest.approx((0.004 + 0.002) / 2)
    assert sums["client_infer_s"] == pytest.approx((0.030 + 0.030) / 2)
    assert sums["op1_s"] == pytest.approx((0.010 + 0.008) / 2)
    assert sums["total_s"] == pytest.approx((0.038 + 0.036) / 2)


def test_every_stage_has_a_sum_even_if_nothing_was_answered() -> None:
    sums = stage_sums([record([], (0, 0))])
    assert set(sums) == {f"{name}_s" for name in (*STAGES, "client_infer", "total")}
    assert set(sums.values()) == {0.0}


def test_means_are_microseconds_a_request_over_all_clients() -> None:
    means = stage_means(BOTH)
    assert means["op1_us"] == pytest.approx((4000 + 6000 + 8000) / 3)
    assert means["total_us"] == pytest.approx((13_000 + 25_000 + 36_000) / 3)


def test_a_client_that_answered_nothing_counts_in_the_average_but_not_in_the_mean() -> None:
    records = [*BOTH, record([], (0, 0))]
    assert stage_sums(records)["total_s"] == pytest.approx((0.038 + 0.036) / 3)
    assert stage_means(records)["total_us"] == pytest.approx((13_000 + 25_000 + 36_000) / 3)


def test_percentiles_are_over_all_single_requests() -> None:
    rows = [(0, latency_ms, 0, 0, latency_ms) for latency_ms in range(1, 102)]
    figures = latency([record(rows[:50], (0, 1)), record(rows[50:], (0, 1))])
    assert figures == {"p50_ms": pytest.approx(51), "p95_ms": pytest.approx(96), "p99_ms": pytest.approx(100)}
    assert latency([record([], (0, 0))]) == {}


def test_wall_is_from_the_first_start_to_the_last_end() -> None:
    assert wall_seconds(BOTH) == pytest.approx(2.0)
    assert wall_seconds([*BOTH, record([], (0, 0))]) == pytest.approx(2.0)
    assert wall_seconds([record([], (0, 0))]) == 0.0


def test_throughput_is_samples_over_wall_time() -> None:
    figures = summarise(BOTH, 30)
    assert figures["throughput"] == pytest.approx(15.0)
    assert figures["wall_s"] == pytest.approx(2.0)
    assert summarise([record([], (0, 0))], 0)["throughput"] == 0.0
