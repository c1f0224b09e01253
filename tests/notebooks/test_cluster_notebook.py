"""The notebook of several machines, on nodes that it starts on this one."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest
from notebook_runs import processes_with, shown

from imdb_serving.bench.record.ledger import Ledger
from imdb_serving.report.notebooks import execute

pytest.importorskip("ray", reason="Ray is not installed: make ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_cluster_notebook_goes_from_nodes_to_capacity_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"imdb-serving-test-{uuid.uuid4().hex}"
    monkeypatch.setenv("IMDB_SERVING_TEST_MARK", mark)
    given = {"client_threads": [1, 2], "samples": 60, "outputs": str(tmp_path)}
    execute("cluster.ipynb", tmp_path / "out.ipynb", given)
    page = shown(tmp_path / "out.ipynb")
    assert "1 CPUs" in page
    assert "clients" in page
    rows = [row for row in Ledger(tmp_path / "cluster").rows() if row.cell.series == "grid"]
    assert {(row.cell.server_nodes, row.cell.client_threads) for row in rows} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert all(row.answered == 60 for row in rows)
    deadline = time.monotonic() + 30
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_with(mark) == []
