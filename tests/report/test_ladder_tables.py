"""The ladder's tables on made-up rows: additions add up, intervals are Student's, the gap is wholly explained."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from imdb_serving.cell import LADDER, Cell, Figures, Finding, Row, digest
from imdb_serving.errors import DataError
from imdb_serving.experiment.ladder import ALL, ASIDE, RUNGS
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.measurement.ledger import FILE, append_line, store_samples
from imdb_serving.report import ladder, style
from imdb_serving.report.charts import rungs as charts

CASES = [("paddle", 1), ("paddle", 2), ("none", 1), ("none", 2)]


def made(folder: Path, rounds: int = 3, run: str = "one") -> list[Row]:
    """A ladder whose rung k takes (k + 1)^2 x 100 us, a little more in each round; `rpc-tcp` has two late requests."""
    rows = []
    for engine, clients in CASES:
        for round_ in range(1, rounds + 1):
            for place, (rung, (mode, endpoint, kind)) in enumerate(ALL.items()):
                time_us = 230.0 if rung == ASIDE else 100.0 * (place + 1) ** 2 + 10 * round_ * place
                times = np.full(20, int(time_us * 1000))
                if rung == "rpc-tcp":
                    times[:2] = 41_000_000
                record = ClientRecord(
                    ("prepro", "client_infer", "postpro", "total"), list(range(20)), np.arange(20),
                    durations=np.column_stack([times] * 4),
                )  # fmt: skip
                cell = Cell(
                    series=LADDER, engine=engine, net="cnn", mode=mode, endpoint=endpoint, client_kind=kind,
                    server_threads=2, client_threads=clients,
                )  # fmt: skip
                rows.append(Row(
                    run=run, key=digest(cell), cell=cell, round=round_, began="", seed=1, card="", answered=20,
                    stages=("send", "handover", "op1", "reply"), means_us={"handover": 50.0, "op1": time_us / 10},
                    figures=Figures(p50_us=time_us, mean_us=time_us, throughput=1e6 / time_us),
                    raw=store_samples(folder, f"{cell.slug}-{round_}", [record]),
                ))  # fmt: skip
    return rows


def rows(folder: Path, rounds: int = 3) -> pd.DataFrame:
    return ladder.rungs(made(folder, rounds))


@pytest.mark.parametrize("case", CASES)
def test_what_the_rungs_add_adds_up_to_the_last_one(case: tuple[str, int], tmp_path: Path) -> None:
    table = ladder.additions(rows(tmp_path), case)
    assert list(table.index) == list(RUNGS)
    assert table["adds"].sum() == pytest.approx(table["total"].iloc[-1])
    assert table["share"].sum() == pytest.approx(1)
    assert table["adds"].iloc[0] == table["total"].iloc[0]


def test_the_parts_of_the_gap_are_all_of_it(tmp_path: Path) -> None:
    found = rows(tmp_path)
    gap = ladder.published_gap(found, ("paddle", 1))
    assert gap["share of the gap"].sum() == pytest.approx(1)
    times = ladder.by_round(found, ("paddle", 1))
    assert gap["µs a request"].sum() == pytest.approx((times["flask-dev-curl"] - times["bare"]).mean())


def test_the_explanation_has_the_published_figures(tmp_path: Path) -> None:
    words = ladder.explain_gap(rows(tmp_path))
    assert "12.0 ms of each request outside" in words  # (33.286 - 3.285) s / 2,500
    assert "at 230 requests/s" in words  # 2,500 / 10.86 s
    times = ladder.by_round(rows(tmp_path), ("paddle", 1)).mean()
    curl = (times["flask-dev-curl"] - times["flask-dev"]) / (times["flask-dev-curl"] - times["bare"])
    assert f"curl is **{curl:.0%}**" in words


def test_the_published_time_is_shared_out_by_shares_of_that_very_time(tmp_path: Path) -> None:
    """What lies outside the serving time: all but the way to the ops (50 µs) and the ops (a tenth of the request)."""
    found = rows(tmp_path)
    times = ladder.by_round(found, ("paddle", 1)).mean()
    outside, curl, json = ladder.outside_serving(found, ("paddle", 1))
    whole = times["flask-dev-curl"]
    assert outside == pytest.approx((whole - 50 - whole / 10) / 1000)
    assert curl == pytest.approx((whole - times["flask-dev"]) / (outside * 1000))
    assert json == pytest.approx((times[ASIDE] - times["inproc"]) / (outside * 1000))
    assert f"{12.0 * curl:.1f} ms of it was curl" in ladder.explain_gap(found)


def test_requests_as_long_as_a_delayed_acknowledgement_are_counted(tmp_path: Path) -> None:
    table = ladder.slow_requests(rows(tmp_path), tmp_path).set_index("rung")
    assert table.loc["rpc-tcp", "from 35 to 50 ms"] == 2 * 3 * 2  # two a block, three rounds, two engines
    assert table["from 35 to 50 ms"].sum() == 12


def test_the_table_shows_every_case_with_interval_and_share(tmp_path: Path) -> None:
    page = ladder.show(rows(tmp_path)).to_html()
    assert all(rung in page for rung in RUNGS)
    engines = {engine for engine, _ in CASES}
    assert page.count("share") * len(engines) == len(CASES)
    assert all(f">{engine}</th>" in page for engine in engines)
    words = ladder.text(rows(tmp_path))
    assert words.count("engine ") >= len(CASES)
    assert all(meaning in words for meaning in ladder.MEANING.values())


def test_an_addition_that_may_be_nothing_is_said_to_be_so(tmp_path: Path) -> None:
    """TCP takes 168 µs less than the Unix socket, but by turns 600 less and 300 more."""
    changed = []
    for one in made(tmp_path):
        figures = one.figures
        if one.cell.endpoint == "tcp" and one.cell.mode == "rpc":
            figures = msgspec.structs.replace(figures, p50_us=1600.0 + (-600, 300, -204)[one.round - 1])
        changed.append(msgspec.structs.replace(one, figures=figures))
    found = ladder.rungs(changed)
    added = ladder.additions(found, ("paddle", 1)).loc["rpc-tcp"]
    assert added["adds low"] < 0 < added["adds high"]
    assert f"{ladder.NOT_DISTINGUISHABLE})" in ladder.text(found)
    assert ladder.NOT_DISTINGUISHABLE in ladder.show(found).to_html()
    figure = charts.additions(found, tmp_path).figure()
    assert "not distinguishable" in [text.get_text() for text in figure.axes[0].texts]


def test_the_figure_draws_the_additions_with_their_intervals(tmp_path: Path) -> None:
    found = rows(tmp_path)
    axes = charts.additions(found, tmp_path).figure().axes[0]
    table = ladder.additions(found, ("paddle", 1))
    drawn = [
        list(line.get_xdata()) for line in axes.lines if line.get_marker() == "None" and len(line.get_xdata()) == 2
    ]
    for low, high in zip(table["adds low"], table["adds high"], strict=True):
        assert any(pair == pytest.approx([low, high]) for pair in drawn)


def test_the_figures_are_saved(tmp_path: Path) -> None:
    figure = charts.additions(rows(tmp_path), tmp_path).save(tmp_path / "figures", "ladder").figure()
    assert all(axes.get_xlabel() == "added to a request [µs]" for axes in figure.axes)
    charts.spread(rows(tmp_path), tmp_path).save(tmp_path / "figures", "latency")
    assert len(list((tmp_path / "figures").iterdir())) == 2 * len(style.FORMATS)


def test_the_newest_ladder_is_loaded(tmp_path: Path) -> None:
    for run in ("old", "new"):
        for one in made(tmp_path, rounds=2, run=run):
            append_line(tmp_path / FILE, msgspec.json.encode(one))
    loaded = ladder.load(tmp_path)
    assert set(loaded["run"]) == {"new"}
    assert set(loaded["rung"]) == {*RUNGS, ASIDE}
    with pytest.raises(DataError, match="no ledger"):
        ladder.load(tmp_path / "elsewhere")


def test_a_ladder_that_lacks_a_rung_is_told_with_the_reason(tmp_path: Path) -> None:
    bad = [
        msgspec.structs.replace(one, status="failed", error="gone") if one.cell.mode == "socket" else one
        for one in made(tmp_path)
    ]
    with pytest.raises(DataError, match=r"engine paddle, 1 client: 0 rounds with all rungs.*socket, round 1: gone"):
        ladder.rungs(bad)
    worse = [msgspec.structs.replace(one, status="failed", error="gone") for one in made(tmp_path)]
    with pytest.raises(DataError) as told:
        ladder.rungs(worse)
    assert str(told.value).count("gone") == ladder.SHOWN
    first = [one for one in worse if (one.cell.engine, one.cell.client_threads) == ("paddle", 1)]
    assert f"; and {len(first) - ladder.SHOWN} more); measure the ladder again" in str(told.value)
    with pytest.raises(DataError, match="the ladder was not measured"):
        ladder.rungs([])


def test_a_round_with_an_invalid_rung_is_left_out(tmp_path: Path) -> None:
    rows = made(tmp_path)
    rows[0] = msgspec.structs.replace(rows[0], status="invalid", findings=(Finding("alone", "others"),))
    assert list(ladder.by_round(ladder.rungs(rows), ("paddle", 1)).index) == [2, 3]
