"""Which source files decide whether a cell has to be measured again."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

import imdb_serving
from imdb_serving.measurement import environment
from imdb_serving.measurement.environment import NOT_MEASURING, decides

ROOT = Path(imdb_serving.__file__).parent
MEASURE = {
    *("clients", "cluster", "engines", "experiment", "foreign", "load", "measurement", "model", "protocol", "server"),
    "text",
}
SHOW = {"analysis", "cli", "lab", "report"}
ROOMS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").is_file())


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_decides_or_only_shows(room: str) -> None:
    assert room in MEASURE | SHOW, "say whether the code of this room can change a measurement"
    assert decides(PurePath(room, "module.py")) == (room in MEASURE)


def test_a_name_that_only_begins_like_a_room_is_not_that_room() -> None:
    assert decides(PurePath("clients", "http.py"))
    assert decides(PurePath("laboratory.py"))
    assert decides(PurePath("measurement", "ledger_of_another_kind.py"))


def test_installed_examples_are_not_the_code_that_measures() -> None:
    """So a wheel and the checkout that it was built from are one code."""
    assert not decides(PurePath("project", "examples", "own_op.py"))


def test_what_is_left_out_exists() -> None:
    for parts in NOT_MEASURING:
        assert ROOT.joinpath(*parts).exists()


@pytest.mark.parametrize("version", ["0.2.dev7+g1a2b3c4", "0.2.dev9", "0.2+unknown", "0.2"])
def test_what_lies_between_releases_is_told_by_the_code(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that changes nothing that is measured is no other machine."""
    monkeypatch.setattr(imdb_serving, "__version__", version)
    assert environment.keep_card(tmp_path)["packages"]["imdb-serving"] == "0.2"
