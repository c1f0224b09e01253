"""A small sweep in this process: rounds, the pair, and one round more where noise asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imdb_serving.experiment import sweep
from imdb_serving.experiment.sweep import run_rounds
from imdb_serving.measurement import texts
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.parameters import SweepParams
from imdb_serving.text.formats import Line

PARAMS = SweepParams(engine="none", mode=["rpc"], server_threads=[1], client_threads=[1, 2], samples=20, rounds=2)


@pytest.mark.parametrize(("noisy", "expected"), [(False, 2), (True, 3)], ids=["calm", "noisy"])
def test_all_cells_are_measured_in_each_round(
    noisy: bool, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [Line("made", number, "2 8 9 1") for number in range(1, 21)]
    monkeypatch.setattr(texts, "measurement_lines", lambda samples, seed, vocabulary: lines)
    monkeypatch.setattr(sweep, "unsettled", lambda rows: {rows["key"].iloc[0]: "it is unstable"} if noisy else {})
    said: list[str] = []
    folder = run_rounds(PARAMS, "small", str(tmp_path), said.append)
    rows = [row for row in Ledger(folder).rows() if row.cell.series in {"grid", "twin"}]
    counted: dict[Any, int] = {}
    for row in rows:
        counted[row.cell] = counted.get(row.cell, 0) + 1
    assert len(counted) == 4  # two client counts, and the pair's second
    assert set(counted.values()) == {expected}
    assert len({row.run for row in rows}) == 1
    assert said[0].startswith("sweep small: 4 grid runs, 8 cells in 2 rounds, about a minute, to ")
    assert said[1] == "round 1, rpc, none, 1 server thread: 2 cells"
    assert any("another round of all cells, 1 of at most 1" in line for line in said) == noisy
