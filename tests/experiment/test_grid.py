"""One cell, and one grid run, with the engine that answers at once."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from loads import lines_of

from imdb_serving.analysis.cells import frame
from imdb_serving.cell import Cell, Row
from imdb_serving.clients.connect import connect
from imdb_serving.errors import BundleError, ServerStartError
from imdb_serving.experiment.grid import run_grid, shuffled
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.measurement import texts
from imdb_serving.measurement.ledger import Ledger, read_samples
from imdb_serving.measurement.measure import Round, Target, measure
from imdb_serving.measurement.models import ensure_model
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.report import frames, tables
from imdb_serving.server_process import ServerProcess, ServerSpec
from imdb_serving.text.formats import Line


def null_params(folder: Path, **changes: Any) -> GridParams:
    values: dict[str, Any] = {"engine": "none", "samples": 30, "client_threads": [1, 2, 3], "server_threads": 2}
    return GridParams(**values | {"outputs": str(folder), "model": str(folder / "no-model")} | changes)


def context(lines: list[Line], **changes: Any) -> Round:
    return Round(**{"run": "one", "number": 1, "seed": 1, "card": "", "identity": "", "lines": lines} | changes)


def measured(
    clients: int, endpoint: str, lines: list[Line], *, batch: int = 1, timeout: float = 5.0, **changes: Any
) -> tuple[Row, list[ClientRecord]]:
    """Measure one cell with clients of its own."""
    cell = Cell(engine="none", server_threads=2, client_threads=clients, batch=batch, samples=len(lines))
    target = Target(functools.partial(connect, endpoint, timeout))
    with LoadSession({"": target.connect}, clients, timeout) as session:
        return measure(cell, context(lines, **changes), session, "", target)


def test_a_cell_on_a_live_server_has_what_the_report_needs(null_server: ServerProcess) -> None:
    row, records = measured(3, null_server.endpoint, lines_of(30))
    assert (row.error, row.cell.client_threads) == ("", 3)
    assert (row.requests, row.answered, row.failed_requests) == (30, 30, 0)
    assert len(records) == 3
    assert row.figures.throughput > 0
    shown = frames.named(frame([row]))
    cells = frames.cells(shown)
    assert len(tables.published_columns(cells)) == len(tables.stage_means(cells, 2, "rpc", "")) == 1
    assert row.stages == ("encode", "send", "queue", "op0", "op1", "op2", "reply", "decode")
    assert msgspec.json.decode(msgspec.json.encode(row), type=Row) == row


def test_the_accuracy_is_the_share_of_right_answers(null_server: ServerProcess) -> None:
    # The engine `none` says 0.5, which is not above one half: every review is taken for negative.
    row, _ = measured(1, null_server.endpoint, lines_of(31))
    assert row.accuracy == pytest.approx(15 / 31)


def test_batches_answer_every_sample_and_throughput_counts_samples(null_server: ServerProcess) -> None:
    row, records = measured(2, null_server.endpoint, lines_of(32), batch=4)
    assert (row.answered, row.requests) == (32, 8)
    assert sum(len(record.positions) for record in records) == 8
    assert row.figures.throughput == pytest.approx(4 * row.figures.request_rate)


def test_a_request_without_an_answer_makes_the_cell_invalid_by_name(null_server: ServerProcess) -> None:
    lines = [*lines_of(9), Line("made", 10, "broken")]
    row, _ = measured(2, null_server.endpoint, lines)
    assert (row.status, row.answered, row.failed_requests) == ("invalid", 9, 1)
    assert row.error.startswith("1 of 10 requests failed, the first: made:10: ")
    assert "errors" in [finding.gate for finding in row.findings]


def test_every_answer_is_compared_with_the_bare_engines_to_the_same_review(null_server: ServerProcess) -> None:
    lines = [*lines_of(11), Line("made", 12, "broken")]
    row, _ = measured(3, null_server.endpoint, lines, batch=2, reference=np.full((12, 2), 0.5))
    assert (row.answered, row.difference) == (10, 0.0)
    reference = np.full((12, 2), 0.5)
    reference[7] = 0.6
    row, _ = measured(3, null_server.endpoint, lines, batch=2, reference=reference)
    assert row.difference == pytest.approx(0.1)
    assert (row.status, "answers" in [finding.gate for finding in row.findings]) == ("invalid", True)


def test_a_dead_server_gives_a_failed_row() -> None:
    with ServerProcess(["--engine", "none", "--server-threads", "1"]) as server:
        endpoint = server.endpoint
    row, _ = measured(2, endpoint, lines_of(30), timeout=0.3)
    assert (row.status, row.answered, row.failed_requests) == ("failed", 0, 30)
    assert endpoint in row.error
    assert row.accuracy is None
    assert msgspec.json.decode(msgspec.json.encode(row), type=Row) == row


def grid_rows(folder: Path) -> list[Row]:
    return [row for row in Ledger(folder).rows() if row.cell.series == "grid"]


def test_a_grid_run_measures_every_client_count_and_writes_it_down(tmp_path: Path) -> None:
    said: list[str] = []
    rows = run_grid(null_params(tmp_path, sweep="small", run="one"), said.append)
    assert [row.cell.client_threads for row in rows] == [1, 2, 3]
    assert {row.error for row in rows} == {""}
    assert sorted(row.order for row in rows) == [0, 1, 2]
    assert sorted(row.cell.client_threads for row in grid_rows(tmp_path / "small")) == [1, 2, 3]
    for row in rows:
        assert len(read_samples(tmp_path / "small", row.raw)) == 30
        assert row.difference == 0.0  # the bare engine was asked as well
        assert row.figures.of_ceiling is not None  # and the clients were calibrated
        assert row.figures.server_cpu_us is not None
    assert {row.card for row in rows} == {path.stem for path in (tmp_path / "small" / "cards").iterdir()}
    assert len(said) == 4


def test_clients_are_calibrated_once_for_a_folder_and_kind(tmp_path: Path) -> None:
    for round_ in (1, 2):
        run_grid(null_params(tmp_path, run="one", round=round_, client_threads=[1, 2]), lambda text: None)
    run_grid(null_params(tmp_path, run="one", client_threads=[1, 3]), lambda text: None)
    calibrations = [
        row.cell.client_threads for row in Ledger(tmp_path / "adhoc").rows() if row.cell.series == "calibration"
    ]
    assert calibrations == [1, 2, 3]


def test_without_a_server_the_engine_alone_is_a_cell(tmp_path: Path) -> None:
    rows = run_grid(null_params(tmp_path, mode="bare", client_threads=[1, 2]), lambda text: None)
    assert [(row.cell.server_threads, row.cell.endpoint, row.error) for row in rows] == [(1, "", ""), (2, "", "")]
    assert rows[0].stages == ("op0", "op1")


def test_a_server_that_cannot_start_leaves_a_row_a_cell_with_its_reason(tmp_path: Path) -> None:
    rows = run_grid(null_params(tmp_path, pipeline="no_such_module:make"), lambda text: None)
    written = Ledger(tmp_path / "adhoc").rows()[-3:]
    assert {row.status for row in written} == {"failed"}
    assert sorted(row.cell.client_threads for row in written) == [1, 2, 3]
    assert len(rows) == 3
    assert all("no_such_module" in row.error for row in rows)
    shown = tables.failures(frames.named(frame(rows)))
    assert len(shown) == 3


@pytest.fixture
def quick_grid(null_server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grid runs neither read the packaged reviews nor start a server of their own."""
    monkeypatch.setattr(texts, "measurement_lines", lambda samples, seed, vocabulary: lines_of(samples))
    monkeypatch.setattr(ServerSpec, "process", lambda spec: nullcontext(null_server))


@pytest.mark.usefixtures("quick_grid")
def test_two_lone_runs_are_told_apart_and_keep_their_raw_samples(tmp_path: Path) -> None:
    for batch in (1, 2):
        run_grid(null_params(tmp_path, client_threads=[1], batch=batch), lambda text: None)
    rows = grid_rows(tmp_path / "adhoc")
    assert len({row.raw for row in rows}) == len({row.run for row in rows}) == 2
    assert [row.cell.batch for row in Ledger(tmp_path / "adhoc").latest_run() if row.cell.series == "grid"] == [2]


def test_the_order_of_clients_is_shuffled_by_seed_and_round(tmp_path: Path) -> None:
    orders = {
        tuple(cell.client_threads for cell in shuffled(null_params(tmp_path, round=number))) for number in range(6)
    }
    assert len(orders) > 1
    assert all(sorted(order) == [1, 2, 3] for order in orders)


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ServerStartError, match=r"did not become ready: .*unknown engine 'non'.*did you mean 'none'"):
        ServerProcess(["--engine", "non"]).start()


def test_a_damaged_model_is_not_trained_over(bundle: Path, tmp_path: Path) -> None:
    server_dir = tmp_path / "serving_server_model"
    server_dir.mkdir()
    (server_dir / "model_card.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match="damaged"):
        ensure_model(tmp_path, "cnn")
    ensure_model(bundle, "cnn")
