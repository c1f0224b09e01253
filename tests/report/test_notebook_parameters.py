"""Notebooks' parameters: papermill's ways to write them, and a mistyped one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imdb_serving.errors import ConfigError
from imdb_serving.lab.settings import Settings
from imdb_serving.measurement.parameters import GridParams, LadderParams, SweepParams, from_notebook
from imdb_serving.report import notebooks
from imdb_serving.report.notebooks import params_of


def cells(injected: str, **namespace: Any) -> dict[str, Any]:
    """What `globals()` holds in a notebook into which papermill injected a cell."""
    return {"In": ["", "server_threads = 4", injected], "Path": Path, "_": None, "server_threads": 4, **namespace}


def grid_params(namespace: dict[str, Any]) -> GridParams:
    return params_of(GridParams, "grid.ipynb", namespace)


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


@pytest.mark.parametrize(
    ("name", "value"), [("samples", "many"), ("server_threads", "8.5"), ("run", "a/b"), ("engine", "padle")]
)
def test_wrong_values_are_refused_naming_the_parameter(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"grid\.ipynb: {name}"):
        grid_params(cells("", **{name: value}))


KINDS: list[type[Any]] = [GridParams, LadderParams, SweepParams, Settings]


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_may_look_like_a_number(kind: type[Any]) -> None:
    """papermill's `-p run 20261127` gives a number, `-p sweep True` a truth value."""
    for name in {"run", "sweep", "outputs", "model"} & set(kind.__struct_fields__):
        for given, meant in [(20261127, "20261127"), (1.5, "1.5"), (True, "True"), (None, "")]:
            if meant or name != "sweep":  # which has to have a name
                assert getattr(from_notebook(kind, "here", **{name: given}), name) == meant


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_may_be_a_text(kind: type[Any]) -> None:
    for name, given, meant in [
        ("server_threads", "3", 3), ("server_threads", np.int64(3), 3), ("seed", "7", 7), ("timeout", "2.5", 2.5),
        ("timeout", 2, 2.0), ("rate", "70", 70.0),
    ]:  # fmt: skip
        if name in kind.__struct_fields__ and not (kind is SweepParams and name == "server_threads"):
            assert getattr(from_notebook(kind, "here", **{name: given}), name) == meant


@pytest.mark.parametrize(
    "given", [["none"], "none", '["none"]', "['none']", "[none]", "null", '["null"]', [None], ("none",), "None"]
)
def test_engines_may_be_written_as_lists_are(given: Any) -> None:
    assert from_notebook(LadderParams, "ladder.ipynb", engines=given).engines == ["none"]


@pytest.mark.parametrize("given", ["folded,none", "folded, none", '["folded", "none"]', ["folded", "null"]])
def test_several_too(given: Any) -> None:
    assert from_notebook(LadderParams, "ladder.ipynb", engines=given).engines == ["folded", "none"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [("500,1000", [500, 1000]), (500, [500]), (0.5, [0.5]), ("[0.5, 2]", [0.5, 2]), ([], []), ("[]", [])],
)
def test_rates_may_be_written_as_lists_are(given: Any, meant: list[float]) -> None:
    arrivals = "poisson" if meant else "closed"
    assert from_notebook(GridParams, "grid.ipynb", rates=given, arrivals=arrivals).rates == meant


@pytest.mark.parametrize(("given", "meant"), [("rpc,flask", ["rpc", "flask"]), ("rpc", "rpc"), (["rpc"], ["rpc"])])
def test_a_mode_may_be_one_or_a_list(given: Any, meant: Any) -> None:
    assert from_notebook(SweepParams, "quickstart.ipynb", mode=given).mode == meant


@pytest.mark.parametrize("kind", [GridParams, SweepParams, Settings])
@pytest.mark.parametrize("given", ["null", "none", "None", None])
def test_the_engine_none_has_other_spellings(kind: type[Any], given: Any) -> None:
    assert from_notebook(kind, "here", engine=given).engine == "none"


def test_a_notebook_outside_the_project_is_the_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert notebooks.notebook_path("grid.ipynb").is_file()
    assert notebooks.working_folder("grid.ipynb") == tmp_path
    assert not list(tmp_path.iterdir())


def test_a_package_below_the_working_folder_is_not_worked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an environment in `.venv` is; what is laid out there is not the project of the folder."""
    package = tmp_path / ".venv" / "imdb_serving" / "project"
    for name in ("notebooks", "params"):
        (package / name).mkdir(parents=True)
    (package / "notebooks" / "grid.ipynb").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "shipped", lambda name: package / name)
    assert notebooks.notebook_path("grid.ipynb") == package / "notebooks" / "grid.ipynb"
    assert notebooks.working_folder("grid.ipynb") == tmp_path
    for name in ("notebooks", "params"):
        (tmp_path / name).mkdir()
    (tmp_path / "notebooks" / "grid.ipynb").touch()
    assert notebooks.working_folder("grid.ipynb") == tmp_path / "notebooks"
