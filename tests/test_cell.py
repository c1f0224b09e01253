"""A cell's identity: what is the same, what is another, and how it is said."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from imdb_serving.cell import FIELDS, Cell, common, in_words, listed, plural, varying

CELL = Cell(mode="flask", engine="paddle", server_threads=2, client_threads=8, samples=2500)

OTHER: dict[str, Any] = {
    "series": "twin", "mode": "rpc", "server": "gunicorn", "engine": "none", "net": "lstm", "model": "mine",
    "server_threads": 3, "server_processes": 2,
    "client_threads": 1, "batch": 8, "prepro": "before", "arrivals": "poisson", "rate": 100.0, "client_kind": "curl",
    "worker_kind": "thread", "math_threads": 2, "service": "5 ms, fixed", "pipeline": "mine:make", "endpoint": "ipc",
    "samples": 10, "passes": 3, "words": 200, "placement": "apart", "server_nodes": 3, "client_nodes": 2,
}  # fmt: skip


def test_a_cell_that_differs_in_anything_has_another_key_and_another_file_name() -> None:
    assert set(OTHER) == set(FIELDS)
    cells = [CELL, *(msgspec.structs.replace(CELL, **{name: value}) for name, value in OTHER.items())]
    assert len({cell.key for cell in cells}) == len({cell.slug for cell in cells}) == len(set(cells)) == len(cells)


def test_a_key_is_the_same_in_every_process() -> None:
    code = f"from imdb_serving.cell import Cell; print(Cell(**{msgspec.to_builtins(CELL)!r}).key)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == CELL.key


def test_a_file_name_has_no_character_that_a_file_name_may_not_have() -> None:
    cell = msgspec.structs.replace(CELL, engine="my engine/../x")
    assert cell.slug.replace("-", "").replace(".", "").isalnum()
    assert "/" not in cell.slug


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_can_be_said(name: str) -> None:
    assert in_words(name, OTHER[name])
    assert in_words(name, OTHER[name]) in msgspec.structs.replace(CELL, **{name: OTHER[name]}).label()


def test_what_varies_and_what_is_common_are_said_apart() -> None:
    cells = [CELL, msgspec.structs.replace(CELL, engine="none", batch=4)]
    assert varying(cells) == ["engine", "batch"]
    assert common(cells) == ("flask, net cnn, 2 server threads, 8 clients, closed loop, 1 math thread, 2,500 samples")
    assert [cell.label(varying(cells)) for cell in cells] == ["engine paddle, batch 1", "engine none, batch 4"]
    assert common([]) == ""


def test_counts_are_said_with_their_noun() -> None:
    assert (plural(1, "round"), plural(2, "round"), plural(2500, "sample")) == ("1 round", "2 rounds", "2,500 samples")


@pytest.mark.parametrize(
    ("names", "words"), [(["rpc"], "rpc"), (["rpc", "flask"], "rpc and flask"), (["a", "b", "c"], "a, b and c")]
)
def test_names_are_listed_as_one_says_them(names: list[str], words: str) -> None:
    assert listed(names) == words
