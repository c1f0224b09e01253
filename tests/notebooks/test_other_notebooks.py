"""The report notebook on a small ledger, and the exploring one from top to bottom."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pandas as pd
import pytest
from notebook_runs import processes_with, shown

from imdb_serving.bench.parameters import GridParams
from imdb_serving.bench.record.ledger import Ledger
from imdb_serving.bench.runs import grid
from imdb_serving.bench.runs.grid import run_grid
from imdb_serving.report.notebooks import execute
from imdb_serving.report.page import write_page
from imdb_serving.text.lines import Line


@pytest.fixture
def small_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep folder with two server and two client counts, measured with the engine that answers at once."""
    lines = [Line("made", number, "2 8 9 1") for number in range(1, 21)]
    monkeypatch.setattr(grid, "measurement_lines", lambda samples, seed, vocabulary: lines)
    for servers in (1, 2):
        params = GridParams(
            engine="null", server_threads=servers, client_threads=[1, 2], samples=20, sweep="small", run="one",
            outputs=str(tmp_path),
        )  # fmt: skip
        run_grid(params, lambda text: None)
    return tmp_path / "small"


def test_the_report_writes_cells_and_figures(small_sweep: Path, tmp_path: Path) -> None:
    execute("report.ipynb", tmp_path / "report.ipynb", {"folder": str(small_sweep)})
    cells = pd.read_csv(small_sweep / "cells.csv")
    assert sorted(zip(cells["server_threads"], cells["client_threads"], strict=True)) == [
        (1, 1), (1, 1), (1, 2), (1, 2), (2, 1), (2, 2),
    ]  # fmt: skip
    figures = sorted(path.name for path in (small_sweep / "figures").iterdir())
    named = {name.rsplit(".", 1)[0] for name in figures}
    assert figures == sorted(f"{name}.{suffix}" for name in named for suffix in ("pdf", "png", "svg"))
    assert {"stages", "throughput-vs-threads", "time-vs-threads"} <= named
    for chart in ("cpu-time-of-a-request-", "heat-map-", "latency-", "one-request-"):
        assert [name for name in named if name.startswith(chart)], chart
    page = shown(tmp_path / "report.ipynb")
    assert page.count('<figure class="chart') > 5
    assert "3.45" in page  # the published table
    write_page(tmp_path / "report.ipynb", tmp_path / "report.html", "small")
    assert "<title>small</title>" in (tmp_path / "report.html").read_text(encoding="utf-8")


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
    deadline = time.monotonic() + 10
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_with(mark) == []


def test_the_quickstart_goes_from_a_request_to_ones_own_op(bundle: Path, tmp_path: Path) -> None:
    given = {
        "model": str(bundle), "server_threads": [1], "client_threads": [1, 2], "samples": 40, "passes": 1, "rounds": 1,
        "outputs": str(tmp_path),
    }  # fmt: skip
    execute("quickstart.ipynb", tmp_path / "out.ipynb", given)
    page = shown(tmp_path / "out.ipynb")
    assert "ServerInfo(" in page
    assert "round 1: " in page
    assert page.count('<figure class="chart') > 6
    assert "calibrate" in page
    assert 'class="verdict' in page
    assert {row.cell.engine for row in Ledger(tmp_path / "quickstart").rows()} >= {"onnxruntime", "folded"}
    own = Ledger(tmp_path / "quickstart-own-op").rows()
    assert {"calibrate"} <= set(own[-1].stages)
