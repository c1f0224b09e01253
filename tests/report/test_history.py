"""Cells over many sweeps: a change is told where it is, noise is not, and a slow drift is seen as well."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pandas as pd
import pytest
from click.testing import CliRunner
from made_sweeps import sweep, write

from imdb_serving.cell import Row
from imdb_serving.cli import main
from imdb_serving.errors import DataError
from imdb_serving.report.history import ALL, charts, history, table, text

LEAST = 0.005
"""The noise of these sweeps, as a share."""


def at(rows: list[Row], day: int) -> list[Row]:
    return [msgspec.structs.replace(one, began=f"2026-11-{day:02d}T08:00:00.000+00:00") for one in rows]


def one_cell(rows: list[Row], factor: float) -> list[Row]:
    """The sweep with its cell 2 x 4 so many times as fast."""
    found = []
    for one in rows:
        if (one.cell.server_threads, one.cell.client_threads) == (2, 4):
            figures = msgspec.structs.replace(one.figures, throughput=factor * one.figures.throughput)
            one = msgspec.structs.replace(one, figures=figures)  # noqa: PLW2901
        found.append(one)
    return found


def folders(place: Path, *sweeps: list[Row]) -> list[Path]:
    return [write(place / f"day-{day}", at(rows, day)) for day, rows in enumerate(sweeps, start=1)]


def test_noise_is_no_change(tmp_path: Path) -> None:
    made = history(folders(tmp_path, *(sweep(seed, spread=LEAST) for seed in range(4))))
    assert made.changes == []
    assert text(made).endswith("nothing changed that can be told from noise (95 %)")


def test_a_change_of_one_cell_is_told_where_it_is(tmp_path: Path) -> None:
    sweeps = [sweep(seed, spread=LEAST) for seed in range(5)]
    sweeps[3:] = [one_cell(rows, 0.8) for rows in sweeps[3:]]
    made = history(reversed(folders(tmp_path, *sweeps)))  # in the order of time, however they are named
    assert [(one.sweep, one.since, one.called) for one in made.changes if one.name != ALL] == [(3, 0, "worse")]
    assert "changed at sweep 4, against sweep 1" in text(made)
    found = table(made)
    assert len(found) == 6
    assert found[found["changed_at"] == "4"]["cell"].str.contains("2 server threads, 4 client").all()


def test_a_slow_drift_is_seen_though_no_step_of_it_is(tmp_path: Path) -> None:
    sweeps = [sweep(seed, 1 - 0.004 * seed, spread=0.01) for seed in range(8)]
    made = history(folders(tmp_path, *sweeps))
    assert made.changes
    assert {one.called for one in made.changes} == {"worse"}
    assert made.changes[0].sweep > 1


def test_another_machine_begins_anew(tmp_path: Path) -> None:
    own = folders(tmp_path, sweep(1, spread=LEAST), sweep(2, spread=LEAST))
    other = write(tmp_path / "other", at(sweep(3, 0.5, spread=LEAST), 3), cpu="Two")
    again = write(tmp_path / "again", at(sweep(4, 0.5, spread=LEAST), 4), cpu="Two")
    made = history([*own, other, again])
    assert (list(made.apart), made.changes) == ([2], [])
    assert "sweep 3 is from another machine (cpu: One and Two)" in text(made)


def test_the_command_writes_a_table_and_a_figure(tmp_path: Path) -> None:
    sweeps = [sweep(seed, spread=LEAST) for seed in range(3)]
    sweeps[2] = one_cell(sweeps[2], 1.3)
    own = folders(tmp_path, *sweeps)
    done = CliRunner().invoke(main, ["history", *map(str, own), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert "changed at sweep 3, against sweep 1" in done.stdout
    assert "better" in done.stdout
    read = pd.read_csv(tmp_path / "out" / "history.csv")
    assert list(read.columns) == ["cell", "day-1", "day-2", "day-3", "changed_at"]
    assert (tmp_path / "out" / "figures" / "history.png").stat().st_size > 10_000


def test_a_history_of_one_is_refused(tmp_path: Path) -> None:
    (own,) = folders(tmp_path, sweep(1))
    with pytest.raises(DataError, match="needs two sweeps or more"):
        history([own, own])


def test_the_chart_names_what_changed(tmp_path: Path) -> None:
    sweeps = [sweep(1, spread=LEAST), one_cell(sweep(2, spread=LEAST), 0.7)]
    shown = charts(history(folders(tmp_path, *sweeps)))._repr_html_()
    assert "every other cell" in shown
    assert "2 server threads, 4 client" in shown
