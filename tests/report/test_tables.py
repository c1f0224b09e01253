"""Tables: the published columns, medians over the rounds, cells that failed, and answers that must agree."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from ledger_rows import failed, grid, row, rows_of, table

from imdb_serving.errors import DataError
from imdb_serving.experiment.plan import Plan, write_plan
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.messages import Reply
from imdb_serving.report import frames, grid_report, tables
from imdb_serving.report.findings import Findings
from imdb_serving.timing import CLIENT_STAGES, STAGES, Stage

PUBLISHED = ["prepro", "client infer", "op0", "op1", "op2", "postpro", "total"]


def test_our_table_has_the_published_columns_in_their_order() -> None:
    shown = tables.published_columns(frames.cells(grid()))
    rest = ["wall", "samples/s", "valid rounds"]
    assert list(shown.columns) == ["mode", "server threads", "client threads", *PUBLISHED, *rest]
    assert len(shown) == 6


def test_the_published_table_has_the_columns_of_ours() -> None:
    shown = tables.format_reference(tables.published_rpc()).data
    assert list(shown.columns) == ["server threads", "client threads", *PUBLISHED]


def test_an_op_of_ones_own_is_a_column_and_a_stage_in_its_place() -> None:
    names = (*CLIENT_STAGES[:-2], "round", *CLIENT_STAGES[-2:])
    rows = table([*rows_of(modes=("rpc", "flask"), stages=names), *rows_of(modes=("socket",))])
    shown = tables.published_columns(frames.cells(rows))
    assert list(shown.columns)[3:11] == [*PUBLISHED[:5], "round", *PUBLISHED[5:]]
    assert tables.stage_order(rows) == ["prepro", *names, "postpro"]
    assert shown.loc[shown["mode"] == "rpc", "round"].notna().all()
    assert shown.loc[shown["mode"] == "socket", "round"].isna().all()
    assert "nan" not in tables.format_published(shown).to_html()
    flask = frames.cells(rows)
    flask = flask[flask["mode"] == "flask"].iloc[0]
    served = sum(flask[f"{name}_s"] for name in ("handover", "op0", "op1", "op2", "round")) * flask["client_threads"]
    assert tables.flask_columns(frames.cells(rows))["serving time"].iloc[0] == pytest.approx(served)


def test_medians_are_over_the_rounds_without_failed_cells() -> None:
    rows = table([row(1, 2, 1), row(1, 2, 2), row(1, 2, 3), failed(1, 4)])
    cells = frames.cells(rows)
    assert list(cells["client_threads"]) == [2]
    assert cells["rounds"].iloc[0] == 3
    assert cells["total_s"].iloc[0] == pytest.approx(rows.loc[rows["round"] == 2, "total_s"].iloc[0])


def test_failures_and_what_cannot_be_believed_are_shown_with_their_reasons() -> None:
    shown = tables.failures(table([row(1, 1), failed(2, 4)]))
    assert shown[["mode", "server threads", "client threads", "round", "status", "why"]].to_dict("records") == [
        {
            "mode": "rpc",
            "server threads": 2,
            "client threads": 4,
            "round": 1,
            "status": "failed",
            "why": "ServerUnavailable: gone",
        }
    ]


def test_stage_means_are_all_stages_in_microseconds() -> None:
    means = tables.stage_means(frames.cells(grid()), 2, "rpc", "")
    assert list(means.columns) == list(STAGES)
    assert list(means.index) == [1, 2, 4]
    assert means.loc[1, "prepro"] == pytest.approx(50)


def test_a_curve_is_the_cells_of_one_server_count_with_their_interval() -> None:
    clients, own = tables.curve(frames.cells(grid()), 1, "rpc", "")
    assert list(clients) == [1, 2, 4]
    assert (own["throughput_low"] < own["throughput"]).all()
    assert (own["throughput"] < own["throughput_high"]).all()


def test_the_newest_run_is_loaded_in_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for one in (row(4, 1, run="old"), row(2, 4), failed(2, 1), row(1, 2)):
        ledger.append(one, [])
    loaded = frames.load(tmp_path)
    assert list(zip(loaded["server_threads"], loaded["client_threads"], strict=True)) == [(1, 2), (2, 1), (2, 4)]
    with pytest.raises(DataError, match="no ledger"):
        frames.load(tmp_path / "elsewhere")


def test_what_the_plan_has_no_more_is_not_shown(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    rows = [row(1, 1), row(1, 2), row(1, 1, 2), row(1, 1, run="later")]
    for one in rows:
        ledger.append(one, [])
    write_plan(tmp_path, Plan("run-a", 1, {rows[0].key: rows[0].cell}))
    assert [(one.cell, one.round) for one in frames.rows_of(tmp_path)] == [(rows[0].cell, 1)]
    write_plan(tmp_path, Plan("never", 1, {}))
    with pytest.raises(DataError, match="no row of run never"):
        frames.rows_of(tmp_path)


def test_the_command_of_a_sweep_can_be_pasted(tmp_path: Path) -> None:
    write_plan(tmp_path, Plan("run-a", 1, {}, file="my sweep's.yaml"))
    assert shlex.split(Findings(grid(rounds=1), tmp_path).command) == ["imdb-serving", "sweep", "my sweep's.yaml"]


def test_the_setting_says_what_was_measured() -> None:
    assert (
        frames.setting(grid(rounds=1))
        == "rpc, engine none, net cnn, batch 1, closed loop, 1 math thread, 2,500 samples, 1 round"
    )
    assert frames.setting(grid()).endswith("3 rounds")


def test_the_environment_is_that_of_the_machine_that_measured(tmp_path: Path) -> None:
    rows = grid()
    assert tables.environment(rows, tmp_path).empty
    assert frames.machine_note(rows, tmp_path) == ""
    (tmp_path / "cards").mkdir()
    card = {"cores_allowed": 77, "packages": {"numpy": "2.0"}}
    (tmp_path / "cards" / "card.json").write_text(json.dumps(card), encoding="utf-8")
    shown = tables.environment(rows, tmp_path).to_numpy().tolist()
    assert shown[:2] == [["cores_allowed", "77"], ["numpy", "2.0"]]
    assert frames.machine_note(rows, tmp_path) == "clients and server share 77 cores"


def test_formatted_tables_are_html() -> None:
    page = tables.format_published(tables.published_columns(frames.cells(grid()))).to_html()
    assert "samples/s" in page
    assert "nan" not in page


def test_stages_of_a_reply_are_counted_from_the_first() -> None:
    stages = [Stage(name, 5000 + 1000 * number, 6000 + 1000 * number) for number, name in enumerate(CLIENT_STAGES)]
    shown = tables.stages(Reply({}, stages))
    assert list(shown["stage"]) == list(CLIENT_STAGES)
    assert list(shown["start [us]"]) == [float(number) for number in range(len(CLIENT_STAGES))]
    assert set(shown["time [us]"]) == {1.0}


def test_modes_are_kept_apart_and_rpc_comes_first() -> None:
    rows = grid(modes=("flask-dev", "flask", "rpc"))
    assert len(frames.cells(rows)) == 3 * 6
    assert frames.lines(rows) == ["rpc", "flask", "flask-dev"]
    assert frames.setting(rows).startswith("rpc, flask and flask-dev, ")


def test_the_flask_table_sums_serving_over_all_requests() -> None:
    shown = tables.flask_columns(frames.cells(grid(rounds=1, modes=("rpc", "flask"))))
    assert set(shown["mode"]) == {"flask"}
    sums = row(1, 4, mode="flask").sums_s
    mine = shown[(shown["server threads"] == 1) & (shown["client threads"] == 4)].iloc[0]
    assert mine["serving time"] == pytest.approx(4 * sum(sums[name] for name in ("handover", "op0", "op1", "op2")))
    assert mine["total time"] == pytest.approx(sums["total"])


def test_curl_against_the_development_server_is_measured_flask() -> None:
    rows = table([*rows_of(), *rows_of(modes=("flask-dev",), client_kind="curl")])
    cells = frames.cells(rows)
    assert frames.lines(rows) == ["rpc", "flask-dev, curl clients"]
    assert tables.has_http(cells)
    assert set(tables.flask_columns(cells)["mode"]) == {"flask-dev, curl clients"}


def _answers(kind: dict[str, Any]) -> str:
    """The digest of a cell's answers, which engine and net decide."""
    return f"{kind.get('engine')} {kind.get('net')}"


def test_cells_that_differ_in_anything_are_neither_averaged_together_nor_drawn_as_one() -> None:
    """As `also:` may vary them: engine, batch, net, math threads, client kind and mode at once."""
    kinds = [
        {},
        {"engine": "paddle", "worker_kind": "process"},
        {"engine": "paddle", "net": "lstm"},
        {"engine": "paddle", "worker_kind": "process", "batch": 8},
        {"math_threads": 2},
        {"mode": "flask-dev"},
        {"mode": "flask-dev", "client_kind": "curl"},
    ]
    rows = table([one for kind in kinds for one in [row(1, 2, r, answers=_answers(kind), **kind) for r in (1, 2, 3)]])
    cells = frames.cells(rows)
    assert len(cells) == len(kinds)
    assert set(cells["rounds"]) == {3}
    assert len({(cell.line, cell.panel) for cell in cells.itertuples()}) == len(kinds)
    assert "differ" not in tables.answers(rows)
    said = frames.setting(rows)
    assert said.startswith("rpc and flask-dev; ")
    assert all(word in said for word in ("engine paddle", "net lstm", "batch 8", "2 math threads", "2,500 samples"))


def test_answers_that_differ_are_named() -> None:
    rows = [row(1, 1), row(1, 2), row(2, 4, mode="flask")]
    assert tables.answers(table(rows)) == (
        "All 3 measurements of engine none, net cnn gave the same answers to six decimals."
    )
    rows[2] = row(2, 4, mode="flask", answers="f" * 32)
    assert "**engine none, net cnn: answers that differ" in tables.answers(table(rows))
    assert "flask 2 x 4, round 1" in tables.answers(table(rows))


def test_answers_are_compared_within_what_decides_them() -> None:
    rows = [
        row(1, 1, r, engine=engine, answers=engine, difference=1e-8) for engine in ("paddle", "folded") for r in (1, 2)
    ]
    said = tables.answers(table(rows))
    assert said.count("All 2 measurements of engine") == 2
    assert said.count("at most 1e-08 from the bare engine's") == 2


def test_a_grid_report_says_so_when_there_is_nothing_to_show() -> None:
    rows = table([row(1, 1)])
    assert "1 measurement, none of which failed" in grid_report.failures(rows)._repr_html_()
    assert "Not an open loop" in grid_report.open_loop(rows)._repr_html_()
    assert len(grid_report.failures(table([row(1, 1), failed(2, 4)]))) == 1
