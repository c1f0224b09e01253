"""Notebooks as committed: no outputs, no logic, one cell of parameters."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from repository import own_files

from imdb_serving.measurement.parameters import GridParams, LadderParams

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = own_files("notebooks/*.ipynb")


def cells(path: Path, kind: str = "code") -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def parameters(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]


def test_the_notebooks_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        *("cluster", "explore", "grid", "ladder", "own_model", "own_server", "quickstart", "report")
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_and_no_execution_counts_are_committed(path: Path) -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_logic_lives_in_the_library(path: Path) -> None:
    logic = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    nodes = [node for cell in cells(path) for node in ast.walk(ast.parse(source(cell)))]
    assert not [ast.unparse(node) for node in nodes if isinstance(node, logic)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_one_cell_holds_the_parameters_and_nothing_else(path: Path) -> None:
    (cell,) = parameters(path)
    assert cell == cells(path)[0]
    assert all(isinstance(node, ast.Assign) for node in ast.parse(source(cell)).body)


@pytest.mark.parametrize(("notebook", "kind"), [("grid", GridParams), ("ladder", LadderParams)])
def test_a_notebook_has_every_parameter_with_its_default(notebook: str, kind: type[GridParams | LadderParams]) -> None:
    (cell,) = parameters(FOLDER / f"{notebook}.ipynb")
    named = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source(cell)).body}
    assert named.keys() == set(kind.__struct_fields__)
    assert kind(**named) == kind()
