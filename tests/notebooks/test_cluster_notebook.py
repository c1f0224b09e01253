"""The notebook of several machines, on nodes that it starts on this one."""

from __future__ import annotations

import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from notebook_runs import ROOT, processes_with, shell_environment, shown
from waiting import wait_until

from imdb_serving.measurement.ledger import Ledger
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
    assert wait_until(lambda: not processes_with(mark), 30)


@pytest.mark.parametrize("victim", ["kernel", "papermill"])
def test_nothing_stays_of_a_cluster_notebook_that_is_killed(tmp_path: Path, victim: str) -> None:
    """Its kernel has started the nodes."""
    mark = f"imdb-serving-test-{uuid.uuid4().hex}"
    given = [word for name, value in {"samples": 20_000, "outputs": tmp_path}.items() for word in ("-p", name, value)]
    command = [sys.executable, "-m", "papermill", "cluster.ipynb", tmp_path / "out.ipynb", *given]
    notebook = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT / "notebooks",
        env=shell_environment() | {"IMDB_SERVING_TEST_MARK": mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert wait_until(lambda: any(" imdb_serving serve " in words for words in commands_under(notebook.pid)), 200)
        (kernel,) = psutil.Process(notebook.pid).children()
        (kernel if victim == "kernel" else notebook).kill()
        notebook.wait(60)
    finally:
        notebook.kill()
    # Two of Ray's own daemons a node look for those that are gone for a minute or two.
    assert wait_until(lambda: not processes_with(mark), 240)


def commands_under(pid: int) -> list[str]:
    """The command lines of a process's descendants."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return found
