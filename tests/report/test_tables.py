"""Tables: the published columns, medians over the rounds, and the cells that failed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from ledger_rows import failed, grid, row

from imdb_serving.bench.ledger import Ledger
from imdb_serving.errors import DataError
from imdb_serving.messages import Reply
from imdb_serving.report import tables
from imdb_serving.timing import CLIENT_STAGES, STAGES, Stage

PUBLISHED = ["prepro", "client infer", "op0", "op1", "op2", "postpro", "total"]


def test_our_table_has_the_published_columns_in_their_order() -> None:
    table = tables.published_columns(tables.medians(grid()))
    assert list(table.columns) == ["mode", "server threads", "client threads", *PUBLISHED, "wall", "samples/s"]
    assert len(table) == 6


def test_the_published_table_has_the_columns_of_ours() -> None:
    shown = tables.format_reference(tables.published_rpc()).data
    assert list(shown.columns) == ["server threads", "client threads", *PUBLISHED]


def test_medians_are_over_the_rounds_without_failed_cells() -> None:
    rows = pd.DataFrame([row(1, 2, 1), row(1, 2, 2), row(1, 2, 3), failed(1, 4)])
    cells = tables.medians(rows)
    assert list(cells["client_threads"]) == [2]
    assert cells["rounds"].iloc[0] == 3
    assert cells["total_s"].iloc[0] == pytest.approx(rows["total_s"].iloc[1])


def test_failures_are_shown_with_their_reasons() -> None:
    shown = tables.failures(pd.DataFrame([row(1, 1), failed(2, 4)]))
    assert shown.to_dict("records") == [
        {"mode": "rpc", "server_threads": 2, "client_threads": 4, "round": 1, "error": "ServerUnavailable: gone"}
    ]


def test_stage_means_are_all_stages_in_microseconds() -> None:
    means = tables.stage_means(tables.medians(grid()), 2)
    assert list(means.columns) == list(STAGES)
    assert list(means.index) == [1, 2, 4]
    assert means.loc[1, "prepro"] == pytest.approx(50)


def test_a_curve_is_the_spread_over_the_rounds() -> None:
    clients, spread = tables.by_client(grid(), 1, "total_s")
    assert list(clients) == [1, 2, 4]
    assert (spread["min"] < spread["median"]).all()
    assert (spread["median"] < spread["max"]).all()


def test_the_newest_run_is_loaded_in_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for one in (row(4, 1, run="old"), row(2, 4), failed(2, 1), row(1, 2)):
        ledger.append(one, [])
    loaded = tables.load(tmp_path)
    assert list(zip(loaded["server_threads"], loaded["client_threads"], strict=True)) == [(1, 2), (2, 1), (2, 4)]
    with pytest.raises(DataError, match="no ledger"):
        tables.load(tmp_path / "elsewhere")


def test_cells_are_written_with_all_rounds_and_failures(tmp_path: Path) -> None:
    rows = pd.DataFrame([*grid().to_dict("records"), *[failed(4, 1)]])
    tables.write_cells(rows, tmp_path / "cells.csv")
    read = pd.read_csv(tmp_path / "cells.csv")
    assert list(read.columns) == list(rows.columns)
    assert len(read) == 19


def test_the_setting_says_what_was_measured() -> None:
    assert tables.setting(grid(rounds=1)) == "rpc, engine null, net cnn, 2,500 samples, batch 1, 1 round"
    assert tables.setting(grid()).endswith("3 rounds")


def test_the_environment_is_two_columns(tmp_path: Path) -> None:
    assert tables.environment(tmp_path).empty
    card = {"cores": 2, "packages": {"numpy": "2.0"}}
    (tmp_path / "environment.json").write_text(json.dumps(card), encoding="utf-8")
    assert tables.environment(tmp_path).to_numpy().tolist() == [["cores", "2"], ["numpy", "2.0"]]


def test_formatted_tables_are_html() -> None:
    page = tables.format_published(tables.published_columns(tables.medians(grid()))).to_html()
    assert "samples/s" in page
    assert "nan" not in page


def test_stages_of_a_reply_are_counted_from_the_first() -> None:
    stages = [Stage(name, 5000 + 1000 * number, 6000 + 1000 * number) for number, name in enumerate(CLIENT_STAGES)]
    table = tables.stages(Reply({}, stages))
    assert list(table["stage"]) == list(CLIENT_STAGES)
    assert list(table["start [us]"]) == [float(number) for number in range(len(CLIENT_STAGES))]
    assert set(table["time [us]"]) == {1.0}


def test_modes_are_kept_apart_and_rpc_comes_first() -> None:
    rows = grid(modes=("flask-dev", "flask", "rpc"))
    cells = tables.medians(rows)
    assert len(cells) == 3 * 6
    assert list(dict.fromkeys(cells["mode"])) == ["rpc", "flask", "flask-dev"]
    assert tables.setting(rows).startswith("rpc and flask and flask-dev, ")


def test_curl_clients_are_a_mode_of_their_own(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for way in ("keep-alive", "curl"):
        ledger.append(row(1, 1, mode="flask-dev", http_client=way), [])
    assert tables.modes(tables.load(tmp_path)) == ["flask-dev", "flask-dev + curl"]
    assert len({one["raw"] for one in ledger.rows()}) == 2


def test_the_flask_table_sums_serving_over_all_requests() -> None:
    table = tables.flask_columns(tables.medians(grid(rounds=1, modes=("rpc", "flask"))))
    assert set(table["mode"]) == {"flask"}
    cell = row(1, 4, mode="flask")
    served = 4 * (cell["handover_s"] + cell["op0_s"] + cell["op1_s"] + cell["op2_s"])
    mine = table[(table["server threads"] == 1) & (table["client threads"] == 4)].iloc[0]
    assert mine["serving time"] == pytest.approx(served)
    assert mine["total time"] == pytest.approx(cell["total_s"])


def test_answers_that_differ_are_named() -> None:
    rows = [row(1, 1), row(1, 2), row(2, 4, mode="flask")]
    assert tables.answers(pd.DataFrame(rows)).startswith("All 3 cells gave the same answers")
    rows[2]["answers"] = "f" * 32
    assert "flask 2 x 4, round 1" in tables.answers(pd.DataFrame(rows))


def test_cells_of_several_engines_are_neither_averaged_together_nor_drawn_as_one() -> None:
    rows = tables.named_ways(
        pd.concat([grid(modes=("rpc", "flask")).assign(engine=engine) for engine in ("folded", "paddle")])
    )
    assert tables.modes(rows) == ["rpc, paddle", "rpc, folded", "flask, paddle", "flask, folded"]
    assert set(tables.medians(rows)["rounds"]) == {3}
    assert tables.setting(rows).startswith("rpc and flask, engines paddle and folded, net cnn")
    assert set(tables.flask_columns(tables.medians(rows))["mode"]) == {"flask, paddle", "flask, folded"}


def test_answers_are_compared_within_an_engine() -> None:
    rows = pd.DataFrame([row(1, 1, engine=engine, answers=engine) for engine in ("paddle", "folded") for _ in range(2)])
    assert tables.answers(rows) == (
        "All 2 cells of engine paddle gave the same answers, to six decimals (MD5 paddle). "
        "All 2 cells of engine folded gave the same answers, to six decimals (MD5 folded)."
    )
    rows.loc[0, "answers"] = "other"
    assert "Cells of engine paddle whose answers differ" in tables.answers(rows)
