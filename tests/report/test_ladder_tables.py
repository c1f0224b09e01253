"""The ladder's tables on made-up rows: additions add up, intervals are Student's, the gap is wholly explained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imdb_serving.bench.ladder import ASIDE, FILE, RUNGS
from imdb_serving.bench.ledger import append_row
from imdb_serving.errors import DataError
from imdb_serving.report import ladder, ladder_plots, plots

CASES = [("paddle", 1), ("paddle", 2), ("null", 1), ("null", 2)]


def rows(folder: Path, rounds: int = 3) -> pd.DataFrame:
    """A ladder whose rung k takes (k + 1)^2 x 100 us, a little more in each round; `rpc-tcp` has two late requests."""
    (folder / "samples").mkdir(exist_ok=True)
    made = []
    for engine, clients in CASES:
        for round_ in range(1, rounds + 1):
            for place, rung in enumerate([*RUNGS, ASIDE]):
                time_us = 230.0 if rung == ASIDE else 100.0 * (place + 1) ** 2 + 10 * round_ * place
                times = np.full(20, time_us * 1000)
                if rung == "rpc-tcp":
                    times[:2] = 41e6
                raw = f"samples/{engine}-{clients}-{round_}-{rung}.npz"
                columns = np.array(["prepro", "client_infer", "postpro", "total"])
                np.savez(folder / raw, columns=columns, duration_ns=np.column_stack([times] * 4))
                made.append({
                    "run": "one", "engine": engine, "net": "cnn", "round": round_, "rung": rung, "server_threads": 2,
                    "client_threads": clients, "p50_us": time_us, "throughput": 1e6 / time_us, "raw": raw,
                })  # fmt: skip
    return pd.DataFrame(made)


@pytest.mark.parametrize("case", CASES)
def test_what_the_rungs_add_adds_up_to_the_last_one(case: tuple[str, int], tmp_path: Path) -> None:
    table = ladder.additions(rows(tmp_path), case)
    assert list(table.index) == list(RUNGS)
    assert table["adds"].sum() == pytest.approx(table["total"].iloc[-1])
    assert table["share"].sum() == pytest.approx(1)
    assert table["adds"].iloc[0] == table["total"].iloc[0]


def test_the_interval_is_students() -> None:
    """Three values with mean 2 and standard deviation 1: half of it is 4.3027 / sqrt(3)."""
    mean, low, high = ladder.estimate(pd.Series([1.0, 2.0, 3.0]))
    assert (mean, low, high) == pytest.approx((2.0, 2 - 2.48414, 2 + 2.48414), abs=1e-4)


def test_the_parts_of_the_gap_are_all_of_it(tmp_path: Path) -> None:
    made = rows(tmp_path)
    gap = ladder.published_gap(made, ("paddle", 1))
    assert gap["share of the gap"].sum() == pytest.approx(1)
    times = ladder.by_round(made, ("paddle", 1))
    assert gap["µs a request"].sum() == pytest.approx((times["flask-dev-curl"] - times["bare"]).mean())


def test_the_explanation_has_the_published_figures(tmp_path: Path) -> None:
    words = ladder.explain_gap(rows(tmp_path))
    assert "12.0 ms of each request outside" in words  # (33.286 - 3.285) s / 2,500
    assert "at 230 requests/s" in words  # 2,500 / 10.86 s
    times = ladder.by_round(rows(tmp_path), ("paddle", 1)).mean()
    curl = (times["flask-dev-curl"] - times["flask-dev"]) / (times["flask-dev-curl"] - times["bare"])
    assert f"curl is **{curl:.0%}**" in words


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


def test_the_figures_are_saved(tmp_path: Path) -> None:
    figure = plots.save(ladder_plots.ladder_figure(rows(tmp_path)), tmp_path / "figures", "ladder")
    assert all(axes.get_xlabel() == "time of a request [µs]" for axes in figure.axes)
    plots.save(ladder_plots.latency_figure(rows(tmp_path), tmp_path), tmp_path / "figures", "latency")
    assert len(list((tmp_path / "figures").iterdir())) == 4


def test_the_newest_ladder_is_loaded(tmp_path: Path) -> None:
    for run in ("old", "new"):
        for rung in (*RUNGS, ASIDE):
            append_row(tmp_path / FILE, {"run": run, "rung": rung})
    loaded = ladder.load(tmp_path)
    assert set(loaded["run"]) == {"new"}
    assert list(loaded["rung"]) == [*RUNGS, ASIDE]
    with pytest.raises(DataError, match="no ledger"):
        ladder.load(tmp_path / "elsewhere")


def test_a_ladder_that_lacks_a_rung_is_told(tmp_path: Path) -> None:
    for rung in RUNGS:
        if rung != "socket":
            append_row(tmp_path / FILE, {"run": "one", "rung": rung})
    with pytest.raises(DataError, match=f"has no rung socket, {ASIDE}; measure the ladder again"):
        ladder.load(tmp_path)
