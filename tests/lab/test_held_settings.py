"""What a setting must be held for, and how its dot is judged."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from stretches import AROUND, stretch

from imdb_serving.cell import Row
from imdb_serving.lab.live import MOST_BLOCKS, HeldSettings, LiveStatistics, numbers
from imdb_serving.lab.testbed import Stretch
from imdb_serving.lab.trace import APART, lifts, trace_svg, words
from imdb_serving.measurement.ledger import Ledger, read_samples


def held(kept: HeldSettings, count: int, **changes: object) -> list[Row]:
    """The rows that come of so many stretches."""
    found = [kept.add(stretch(**changes), AROUND) for _ in range(count)]  # type: ignore[arg-type]
    return [row for row in found if row is not None]


def test_a_setting_lands_after_three_seconds_behind_its_warm_up() -> None:
    kept = HeldSettings()
    assert held(kept, 13) == []
    (row,) = held(kept, 1)
    assert (row.status, row.cell.series, row.cell.client_threads, row.answered) == ("ok", "lab", 1, 1200)
    assert row.figures.throughput == pytest.approx(400)
    assert row.sums_s["total"] == pytest.approx(512 / 400)
    (dot,) = kept.dots()
    assert dot.throughput.mean == pytest.approx(400)
    assert dot.valid


def test_what_was_under_way_when_a_control_moved_is_left_out() -> None:
    kept = HeldSettings()
    assert held(kept, 10) == []
    assert held(kept, 13, batch=2) == []
    (row,) = held(kept, 1, batch=2)
    assert row.cell.batch == 2
    assert [dot.cell.batch for dot in kept.dots()] == [2]


def test_a_slow_setting_is_held_until_its_tail_can_be_told() -> None:
    kept = HeldSettings()
    assert held(kept, 40, requests=3) == []  # 129 requests in 10 s
    (row,) = held(kept, 10, requests=3)
    assert row.figures.p95_us is not None


def test_a_setting_that_is_held_on_and_on_adds_a_row_each_time_up_to_a_limit() -> None:
    kept = HeldSettings()
    rows = held(kept, 300)
    assert [row.round for row in rows] == list(range(1, MOST_BLOCKS + 1))
    assert len(kept.rows()) == MOST_BLOCKS
    assert len(kept.dots()) == 1


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        pytest.param({"probability": 0.6}, "answers", id="a wrong answer"),
        pytest.param({"foreign": 0.2}, "alone", id="others on the cores"),
        pytest.param({"lost": 1}, "errors", id="no answer"),
    ],
)
def test_a_dot_that_breaks_a_gate_is_hollow_and_says_why(changes: dict[str, float], gate: str) -> None:
    kept = HeldSettings()
    (row,) = held(kept, 14, **changes)
    assert gate in [finding.gate for finding in row.findings]
    (dot,) = kept.dots()
    assert not dot.valid
    assert f"not to be believed: {row.why}" in words(dot)
    assert gate in trace_svg([dot], dot.cell)


def test_a_sound_row_of_a_cell_counts_and_a_broken_one_does_not() -> None:
    kept = HeldSettings()
    held(kept, 14, foreign=0.2, requests=50)
    kept.leave()
    held(kept, 14)
    (dot,) = kept.dots()
    assert dot.valid
    assert dot.throughput.mean == pytest.approx(400)


def test_rows_are_saved_once_with_their_raw_samples(tmp_path: Path) -> None:
    kept, ledger = HeldSettings(), Ledger(tmp_path)
    held(kept, 26)
    assert kept.save(ledger) == 2
    assert kept.save(ledger) == 0
    rows = ledger.rows()
    assert [row.round for row in rows] == [1, 2]
    assert len(read_samples(tmp_path, rows[0].raw)) == rows[0].requests == 1200
    assert not kept.full


def test_live_numbers_are_of_the_present_setting_alone() -> None:
    live = LiveStatistics()
    live.add(stretch())
    live.add(stretch(requests=50, clients=2))
    now = live.now()
    assert now is not None
    assert now.throughput == pytest.approx(200)
    assert now.p95_ms is None  # fifty requests certify none
    assert now.p50_ms == pytest.approx(4.0)
    assert now.queue == pytest.approx(200 * 1e-3)  # Little's law
    assert list(now.stages_us) == ["prepro", "queue", "op1", "postpro"]
    assert [round(point.throughput) for point in live.history()] == [400, 200]
    live.clear()
    assert live.now() is None


def test_a_stretch_without_an_answer_has_numbers_too() -> None:
    lost = stretch(lost=3)
    for record in lost.records:
        record.positions, record.outcomes = [], []
        record.starts_ns, record.durations = record.starts_ns[:0], record.durations[:0]
    now = numbers([Stretch(lost.settings, lost.records, lost.usage)])
    assert (now.throughput, now.failures, now.why) == (0.0, 3, "no reply in 5 s")


def test_names_of_curves_that_end_together_stand_clear_of_each_other() -> None:
    heights = [40.0, 41.0, 90.0, 40.0]
    placed = sorted(height + lift for height, lift in zip(heights, lifts(heights), strict=True))
    assert all(above - below >= APART for below, above in pairwise(placed))
    assert lifts([0.0, 50.0]) == [0.0, 0.0]
    assert lifts([]) == []
