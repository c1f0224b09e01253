"""The exploring notebook and the quickstart, each from top to bottom."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from notebook_runs import processes_with, shown
from waiting import wait_until

from imdb_serving.measurement.ledger import Ledger
from imdb_serving.report.notebooks import execute


def test_exploring_works_from_top_to_bottom_and_leaves_no_process(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"imdb-serving-test-{uuid.uuid4().hex}"
    monkeypatch.setenv("IMDB_SERVING_TEST_MARK", mark)
    given = {"model": str(bundle), "server_threads": 1, "outputs": str(tmp_path)}
    execute("explore.ipynb", tmp_path / "out.ipynb", given)
    assert "error" not in shown(tmp_path / "out.ipynb").lower()
    widgets = "application/vnd.jupyter.widget-view+json"
    assert widgets in (tmp_path / "out.ipynb").read_text(encoding="utf-8")
    assert wait_until(lambda: not processes_with(mark), 10)


def test_a_server_of_ones_own_goes_from_a_command_to_its_curves(bundle: Path, tmp_path: Path) -> None:
    given = {
        "model": str(bundle), "server_threads": [1], "client_threads": [1, 2], "samples": 60, "rounds": 2,
        "outputs": str(tmp_path),
    }  # fmt: skip
    execute("own_server.ipynb", tmp_path / "out.ipynb", given)
    page = shown(tmp_path / "out.ipynb")
    assert "this can be measured" in page
    assert "round 2, http, gunicorn, onnxruntime, 1 server thread" in page
    assert page.count('<figure class="chart') == 2
    assert 'class="verdict' in page
    rows = Ledger(tmp_path / "own-server").rows()
    assert {row.cell.server for row in rows if row.cell.series == "grid"} == {"gunicorn"}
    assert all(row.difference is not None and row.difference < 1e-4 for row in rows if row.cell.series == "grid")


def test_a_model_of_ones_own_goes_from_its_file_to_the_verdict(tmp_path: Path) -> None:
    given = {"server_threads": [1], "client_threads": [1, 2], "samples": 60, "rounds": 2, "outputs": str(tmp_path)}
    execute("own_model.ipynb", tmp_path / "out.ipynb", given)
    page = shown(tmp_path / "out.ipynb")
    assert "text (text, string [N1])" in page
    assert "round 2, flask, onnxruntime, 1 server thread" in page
    assert page.count('<figure class="chart') == 2
    assert 'class="verdict' in page
    rows = [row for row in Ledger(tmp_path / "own-model").rows() if row.cell.series == "grid"]
    assert {(row.cell.mode, row.error) for row in rows} == {("rpc", ""), ("flask", "")}
    assert all(row.difference is not None and row.difference < 1e-4 and (row.accuracy or 0) > 0.8 for row in rows)


def test_the_grid_notebook_takes_a_server_of_someone_else(bundle: Path, tmp_path: Path) -> None:
    command = "uvicorn --workers {{ server_threads }} --host {{ host }} --port {{ port }} --no-access-log asgi_app:app"
    given = {
        "mode": "http", "server_command": command, "server_directory": "examples/servers", "model": str(bundle),
        "server_environment": '{"MODEL": "{{ model }}"}', "request_body": '{"words": {{ ids }}}', "server_threads": 1,
        "answer": "prediction[1]", "client_threads": "1,2", "samples": 40, "outputs": str(tmp_path),
        "engine": "onnxruntime",
    }  # fmt: skip
    execute("grid.ipynb", tmp_path / "out.ipynb", given)
    rows = [row for row in Ledger(tmp_path / "adhoc").rows() if row.cell.series == "grid"]
    assert [(row.cell.server, row.error, row.answered) for row in rows] == [("uvicorn", "", 40)] * 2


def test_the_quickstart_goes_from_a_request_to_ones_own_op(bundle: Path, tmp_path: Path) -> None:
    given = {
        "model": str(bundle), "server_threads": [1], "client_threads": [1, 2], "samples": 40, "passes": 1, "rounds": 1,
        "outputs": str(tmp_path),
    }  # fmt: skip
    execute("quickstart.ipynb", tmp_path / "out.ipynb", given)
    page = shown(tmp_path / "out.ipynb")
    assert "ServerInfo(" in page
    assert "round 1, rpc, " in page
    assert page.count('<figure class="chart') > 6
    assert "calibrate" in page
    assert 'class="verdict' in page
    assert {row.cell.engine for row in Ledger(tmp_path / "quickstart").rows()} >= {"onnxruntime", "folded"}
    own = Ledger(tmp_path / "quickstart-own-op").rows()
    assert {"calibrate"} <= set(own[-1].stages)
