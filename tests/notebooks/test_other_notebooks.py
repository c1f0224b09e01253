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
