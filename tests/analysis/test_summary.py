"""The figures of a cell, against records worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from imdb_serving.analysis.summary import (
    clock_bound_us,
    closed_loop,
    latency,
    stage_gaps,
    stage_means,
    stage_sums,
    together,
    wall_seconds,
)
from imdb_serving.load.closed_loop import ClientRecord

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
    assert sums["prepro"] == pytest.approx((0.004 + 0.002) / 2)
    assert sums["client_infer"] == pytest.approx((0.030 + 0.030) / 2)
    assert sums["op1"] == pytest.approx((0.010 + 0.008) / 2)
    assert sums["total"] == pytest.approx((0.038 + 0.036) / 2)


def test_without_an_answer_all_sums_are_nothing() -> None:
    sums = stage_sums([record([], (0, 0))])
    assert set(sums) == {"prepro", "client_infer", "postpro", "total"}
    assert set(sums.values()) == {0.0}


def test_means_are_microseconds_a_request_over_all_clients() -> None:
    means = stage_means(BOTH)
    assert means["op1"] == pytest.approx((4000 + 6000 + 8000) / 3)
    assert means["total"] == pytest.approx((13_000 + 25_000 + 36_000) / 3)


def test_a_client_that_answered_nothing_counts_in_the_average_but_not_in_the_mean() -> None:
    records = [*BOTH, record([], (0, 0))]
    assert stage_sums(records)["total"] == pytest.approx((0.038 + 0.036) / 3)
    assert stage_means(records)["total"] == pytest.approx((13_000 + 25_000 + 36_000) / 3)


def test_percentiles_are_over_all_single_requests_and_only_where_enough_stand_behind() -> None:
    rows = [(0, latency_ms, 0, 0, latency_ms) for latency_ms in range(1, 102)]
    figures = latency([record(rows[:50], (0, 1)), record(rows[50:], (0, 1))])
    assert figures["mean_us"] == pytest.approx(51_000)
    assert figures["p50_us"] == pytest.approx(51_000)
    assert figures["p90_us"] == pytest.approx(91_000)
    assert (figures["p95_us"], figures["p99_us"], figures["p999_us"]) == (None, None, None)
    assert latency([record([], (0, 0))]) == {}


def test_wall_is_from_the_first_start_to_the_last_end() -> None:
    assert wall_seconds(BOTH) == pytest.approx(2.0)
    assert wall_seconds([*BOTH, record([], (0, 0))]) == pytest.approx(2.0)
    assert wall_seconds([record([], (0, 0))]) == 0.0


def side_by_side(gap: int = 0, first_end: int = 100) -> list[ClientRecord]:
    """Two clients with ten requests of 10 ms each, `gap` ms between two; the second begins 5 ms later."""
    records = []
    for start, requests in ((0, first_end // (10 + gap)), (5, 10)):
        starts = (start + np.arange(requests) * (10 + gap)) * MS
        durations = np.full((requests, 3), 10 * MS)
        durations[:, 0] = 0
        names = ("prepro", "client_infer", "total")
        ends = int(starts[-1]) + 10 * MS
        records.append(ClientRecord(names, list(range(requests)), starts, durations, window_ns=(start * MS, ends)))
    return records


def test_the_rate_is_counted_while_all_clients_are_at_work() -> None:
    figures = closed_loop(side_by_side())
    assert figures["window_s"] == pytest.approx(0.095)  # from 5 to 100 ms
    assert figures["request_rate"] == pytest.approx((10 + 9) / 0.095)
    assert figures["wall_s"] == pytest.approx(0.105)


def test_clients_always_at_a_request_are_as_many_as_are_under_way() -> None:
    assert closed_loop(side_by_side())["in_flight"] == pytest.approx(2)
    assert closed_loop(side_by_side(gap=10, first_end=200))["in_flight"] == pytest.approx(1, abs=0.1)


def test_clients_that_are_hardly_ever_at_work_together_show() -> None:
    """The first is done at 20 of 105 ms: the window is all of it, and Little's law tells."""
    figures = closed_loop(side_by_side(first_end=20))
    assert figures["window_s"] == pytest.approx(0.105)
    assert figures["in_flight"] == pytest.approx(12 * 10 / 105)


def test_a_client_that_is_served_much_faster_than_others_ends_the_window() -> None:
    """Of four workers' eight connections one is alone on its worker: it is done at a quarter of the time."""
    each_us, count = [1_000, *[4_000] * 7], 300
    records = []
    for microseconds in each_us:
        starts = np.arange(count) * microseconds * 1_000
        durations = np.tile([0, microseconds * 1_000, microseconds * 1_000], (count, 1))
        window = (0, int(starts[-1]) + microseconds * 1_000)
        records.append(
            ClientRecord(("prepro", "client_infer", "total"), list(range(count)), starts, durations, window_ns=window)
        )
    figures = closed_loop(records)
    assert figures["window_s"] == pytest.approx(0.3)
    assert figures["wall_s"] == pytest.approx(1.2)
    assert figures["request_rate"] == pytest.approx(1000 + 7 * 250)
    assert figures["in_flight"] == pytest.approx(8)


def test_what_the_stages_leave_out_is_told() -> None:
    gaps = stage_gaps(BOTH)
    assert gaps["unexplained_us"] == pytest.approx(14_000)  # 10 - 4, 20 - 6, 30 - 8 ms
    assert gaps["residual_us"] == pytest.approx(14_000)
    assert stage_gaps([record([], (0, 0))]) == {}


def test_between_hosts_the_bound_is_the_mean_of_all_requests() -> None:
    far = replace(FIRST, clock_bounds_ns=np.array([1_000, 3_000]))
    assert clock_bound_us([far]) == pytest.approx(2.0)
    assert clock_bound_us(BOTH) == 0.0


def test_journeys_together_keep_their_sum_and_their_place() -> None:
    whole = together({"encode": 1.0, "send": 2.0, "op1": 4.0, "reply": 8.0, "decode": 16.0})
    assert list(whole.items()) == [("encode", 1.0), ("network", 10.0), ("op1", 4.0), ("decode", 16.0)]
