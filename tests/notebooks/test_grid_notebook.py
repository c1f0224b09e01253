"""The grid notebook under papermill: from the shell, from the library, and with a mistyped parameter."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from notebook_runs import ROOT, shell_environment, shown

from imdb_serving.cell import Row
from imdb_serving.experiment.ladder import RUNGS
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.report.notebooks import NotebookError, execute


def papermill(notebook: str, out: Path, **parameters: str) -> subprocess.CompletedProcess[str]:
    """`papermill NOTEBOOK OUT -p NAME VALUE ...`, in the notebooks' folder."""
    options = [word for name, value in parameters.items() for word in ("-p", name, value)]
    return subprocess.run(
        ["papermill", notebook, str(out), *options],
        cwd=ROOT / "notebooks",
        env=shell_environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def grid_rows(folder: Path) -> list[Row]:
    """What was measured, without the calibration of the clients before it."""
    return [row for row in Ledger(folder).rows() if row.cell.series == "grid"]


def check_grid(folder: Path, notebook: Path, servers: int, clients: list[int]) -> None:
    page = shown(notebook)
    assert "client infer" in page
    assert "samples/s" in page
    assert page.count("<figure>") == 1
    assert sorted(row.cell.client_threads for row in grid_rows(folder)) == clients
    assert {(row.cell.server_threads, row.error, row.cell.engine) for row in grid_rows(folder)} == {
        (servers, "", "paddle")
    }
    assert all((folder / row.raw).is_file() for row in grid_rows(folder))


@pytest.mark.slow  # the next one is the same over Flask, and the README's command runs it over RPC
def test_papermill_from_the_shell(bundle: Path, tmp_path: Path) -> None:
    given = {"server_threads": "2", "client_threads": "1,2", "samples": "40", "model": str(bundle)}
    done = papermill("grid.ipynb", tmp_path / "out.ipynb", **given, outputs=str(tmp_path), sweep="shell")
    assert done.returncode == 0, done.stderr
    check_grid(tmp_path / "shell", tmp_path / "out.ipynb", 2, [1, 2])


@pytest.mark.slow  # the shell's way is by the same library
def test_papermill_from_the_library(bundle: Path, tmp_path: Path) -> None:
    given = {"server_threads": 1, "client_threads": [2], "samples": 40, "model": str(bundle), "outputs": str(tmp_path)}
    execute("grid.ipynb", tmp_path / "deep" / "out.ipynb", {**given, "sweep": "library"})
    check_grid(tmp_path / "library", tmp_path / "deep" / "out.ipynb", 1, [2])


@pytest.mark.slow
def test_papermill_measures_flask_too(bundle: Path, tmp_path: Path) -> None:
    given = {"mode": "flask", "server_threads": "2", "client_threads": "1,2", "samples": "40", "model": str(bundle)}
    done = papermill("grid.ipynb", tmp_path / "out.ipynb", **given, outputs=str(tmp_path), sweep="shell")
    assert done.returncode == 0, done.stderr
    check_grid(tmp_path / "shell", tmp_path / "out.ipynb", 2, [1, 2])
    assert {row.cell.mode for row in grid_rows(tmp_path / "shell")} == {"flask"}
    assert len({row.answers for row in grid_rows(tmp_path / "shell")}) == 1


@pytest.mark.slow  # half a minute that no other test can share
def test_the_ladder_notebook_measures_and_explains(tmp_path: Path) -> None:
    given = {"engines": "none", "rounds": "4", "requests": "12", "sweep": "small", "outputs": str(tmp_path)}
    done = papermill("ladder.ipynb", tmp_path / "out.ipynb", **given)
    if "alone: " in done.stderr:  # nothing of it is to be believed, and that is what it says
        pytest.skip("other processes took the cores meanwhile")
    assert done.returncode == 0, done.stderr
    page = shown(tmp_path / "out.ipynb")
    assert page.count('<figure class="chart') == 1 + len(RUNGS) - 1  # the engine's additions, and each rung's times
    assert "flask-dev-curl" in page
    assert "curl is **" in page
    names = ("ladder", "ladder-latency")
    figures = sorted(path.name for path in (tmp_path / "small" / "figures").iterdir())
    assert figures == sorted(f"{name}.{suffix}" for name in names for suffix in ("pdf", "png", "svg"))


def test_a_mistyped_parameter_of_the_ladder_stops_it(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match="'engine'; did you mean 'engines'"):
        execute("ladder.ipynb", tmp_path / "out.ipynb", {"engine": "none", "outputs": str(tmp_path)})


def test_a_mistyped_parameter_stops_the_notebook_and_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match="'server_thread'; did you mean 'server_threads'"):
        execute("grid.ipynb", tmp_path / "out.ipynb", {"server_thread": 2, "engine": "none", "outputs": str(tmp_path)})
    assert [path.name for path in tmp_path.iterdir()] == ["out.ipynb"]


@pytest.mark.slow
def test_cells_that_all_fail_are_shown_with_their_reason(tmp_path: Path) -> None:
    given = {"engine": "simulated", "service_time_ms": 400.0, "timeout": 0.1, "samples": 4, "client_threads": [1, 2]}
    execute("grid.ipynb", tmp_path / "out.ipynb", {**given, "outputs": str(tmp_path), "sweep": "late"})
    assert {row.status for row in grid_rows(tmp_path / "late")} == {"failed"}
    assert "no reply from" in shown(tmp_path / "out.ipynb")
