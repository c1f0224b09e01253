"""The grid notebook's parameters: papermill's ways to write them, and a mistyped one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imdb_serving.errors import ConfigError
from imdb_serving.report import notebooks
from imdb_serving.report.notebooks import grid_params


def cells(injected: str, **namespace: Any) -> dict[str, Any]:
    """What `globals()` holds in a notebook into which papermill injected a cell."""
    return {"In": ["", "server_threads = 4", injected], "Path": Path, "_": None, "server_threads": 4, **namespace}


@pytest.mark.parametrize(
    ("given", "meant"),
    [([1, 2, 4], [1, 2, 4]), ("1,2,4", [1, 2, 4]), ("1, 2", [1, 2]), ("[1,2]", [1, 2]), ("8", [8]), (8, [8])],
)
def test_client_threads_may_be_a_list_a_string_or_one_number(given: Any, meant: list[int]) -> None:
    assert grid_params(cells("", client_threads=given)).client_threads == meant


@pytest.mark.parametrize("given", ["1;2", "two", "", "1,,2", True, 1.5])
def test_client_threads_that_are_no_numbers_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="client_threads"):
        grid_params(cells("", client_threads=given))


def test_a_mistyped_injected_parameter_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'server_thread'; did you mean 'server_threads'"):
        grid_params(cells("# Parameters\nserver_thread = 8\nsamples = 10\n", server_thread=8, samples=10))


def test_injected_parameters_are_taken() -> None:
    params = grid_params(cells("# Parameters\nserver_threads = 8\n", server_threads=8, samples=100))
    assert (params.server_threads, params.samples) == (8, 100)


def test_names_that_the_notebook_sets_itself_are_no_parameters() -> None:
    assert grid_params(cells("rows = 1", rows=1, sampels=3)).samples == 2500


@pytest.mark.parametrize(("name", "value"), [("samples", "many"), ("server_threads", "8"), ("engine", "padle")])
def test_wrong_values_are_refused_naming_the_parameter(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"grid\.ipynb: {name}"):
        grid_params(cells("", **{name: value}))


def test_a_notebook_outside_the_project_says_where_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="run this inside the project's folder"):
        notebooks.notebook_path("grid.ipynb")
    assert not list(tmp_path.iterdir())
