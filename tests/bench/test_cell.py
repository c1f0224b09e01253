"""One cell, and one grid run, with the engine that answers at once."""

from __future__ import annotations

import functools
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from loads import lines_of

from imdb_serving.bench import cell
from imdb_serving.bench.cell import measure, run_grid
from imdb_serving.bench.ledger import Ledger
from imdb_serving.bench.models import ensure_model
from imdb_serving.bench.parameters import GridParams
from imdb_serving.bench.session import LoadSession
from imdb_serving.errors import BundleError, ServerStartError
from imdb_serving.report import tables
from imdb_serving.server_process import ServerProcess
from imdb_serving.text.lines import Line
from imdb_serving.transports.connect import connect


def null_params(folder: Path, **changes: Any) -> GridParams:
    values: dict[str, Any] = {"engine": "null", "samples": 30, "client_threads": [1, 2, 3], "server_threads": 2}
    return GridParams(**values | {"outputs": str(folder), "model": str(folder / "no-model")} | changes)


def measured(params: GridParams, clients: int, endpoint: str, lines: list[Line]) -> tuple[dict[str, Any], list[Any]]:
    """Measure one cell with clients of its own."""
    with LoadSession({"": functools.partial(connect, endpoint, params.timeout)}, clients, params.timeout) as session:
        return measure(params, clients, session, lines)


def test_a_cell_on_a_live_server_is_ok_and_has_what_the_report_needs(
    null_server: ServerProcess, tmp_path: Path
) -> None:
    row, records = measured(null_params(tmp_path), 3, null_server.endpoint, lines_of(30))
    assert (row["status"], row["error"], row["client_threads"]) == ("ok", "", 3)
    assert (row["answered"], row["failed_requests"]) == (30, 0)
    assert len(records) == 3
    assert row["throughput"] == pytest.approx(30 / row["wall_s"])
    frame = pd.DataFrame([json.loads(json.dumps(row))])
    cells = tables.medians(frame)
    assert len(tables.published_columns(cells)) == len(tables.stage_means(cells, 2)) == 1
    assert tables.setting(frame) == "rpc, engine null, net cnn, 30 samples, batch 1, 1 round"
    assert not {"outputs", "model"} & set(row)


def test_the_accuracy_is_the_share_of_right_answers(null_server: ServerProcess, tmp_path: Path) -> None:
    # The null engine says 0.5, which is not above one half: every review is taken for negative.
    row, _ = measured(null_params(tmp_path), 1, null_server.endpoint, lines_of(31))
    assert row["accuracy"] == pytest.approx(15 / 31)


def test_batches_answer_every_sample(null_server: ServerProcess, tmp_path: Path) -> None:
    row, records = measured(null_params(tmp_path, batch=4), 2, null_server.endpoint, lines_of(30))
    assert row["answered"] == 30
    assert sum(len(record.positions) for record in records) == 8


def test_a_failed_request_fails_the_cell_and_says_why(null_server: ServerProcess, tmp_path: Path) -> None:
    lines = [*lines_of(9), Line("made", 10, "broken")]
    row, _ = measured(null_params(tmp_path), 2, null_server.endpoint, lines)
    assert (row["status"], row["answered"], row["failed_requests"]) == ("failed", 9, 1)
    assert row["error"].startswith("1 of 10 requests failed, the first: made:10: ")


def test_a_dead_server_gives_a_failed_row(tmp_path: Path) -> None:
    with ServerProcess(["--engine", "null", "--server-threads", "1"]) as server:
        endpoint = server.endpoint
    row, _ = measured(null_params(tmp_path, timeout=0.3), 2, endpoint, lines_of(30))
    assert (row["status"], row["answered"], row["failed_requests"]) == ("failed", 0, 30)
    assert endpoint in row["error"]
    assert row["accuracy"] is None
    assert msgspec.json.decode(msgspec.json.encode(row)) == row


def test_a_grid_run_measures_every_client_count_and_writes_it_down(tmp_path: Path) -> None:
    said: list[str] = []
    rows = run_grid(null_params(tmp_path, sweep="small", run="one"), said.append)
    assert [row["client_threads"] for row in rows] == [1, 2, 3]
    assert {row["status"] for row in rows} == {"ok"}
    assert sorted(row["order"] for row in rows) == [0, 1, 2]
    ledger = Ledger(tmp_path / "small")
    assert sorted(row["client_threads"] for row in ledger.latest_run()) == [1, 2, 3]
    for row in ledger.rows():
        with np.load(ledger.folder / row["raw"], allow_pickle=False) as raw:
            assert raw["duration_ns"].shape == (30, len(raw["columns"]))
    assert len(said) == 4


@pytest.fixture
def quick_grid(null_server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grid runs neither read the packaged reviews nor start a server of their own."""
    monkeypatch.setattr(cell, "measurement_lines", lambda samples, seed, vocabulary: lines_of(samples))
    monkeypatch.setattr(cell, "server_for", lambda params: nullcontext(null_server))


@pytest.mark.usefixtures("quick_grid")
def test_two_lone_runs_are_told_apart_and_keep_their_raw_samples(tmp_path: Path) -> None:
    for batch in (1, 2):
        run_grid(null_params(tmp_path, client_threads=[1], batch=batch), lambda text: None)
    ledger = Ledger(tmp_path / "adhoc")
    assert len({row["raw"] for row in ledger.rows()}) == 2
    assert [row["batch"] for row in ledger.latest_run()] == [2]


@pytest.mark.usefixtures("quick_grid")
def test_the_order_of_clients_is_shuffled_by_seed_and_round(tmp_path: Path) -> None:
    orders = set()
    for round_ in (1, 2):
        params = null_params(tmp_path, client_threads=[1, 2, 3], samples=3, round=round_, server_threads=1)
        orders.add(tuple(row["order"] for row in run_grid(params, lambda text: None)))
    assert len(orders) > 1


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ServerStartError, match=r"did not become ready: .*unknown engine 'nul'.*did you mean 'null'"):
        ServerProcess(["--engine", "nul"]).start()


def test_a_damaged_model_is_not_trained_over(bundle: Path, tmp_path: Path) -> None:
    server_dir = tmp_path / "serving_server_model"
    server_dir.mkdir()
    (server_dir / "model_card.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match="damaged"):
        ensure_model(tmp_path, "cnn")
    ensure_model(bundle, "cnn")
