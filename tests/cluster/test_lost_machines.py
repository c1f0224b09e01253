"""A cell whose machine is lost fails with the reason and is measured once more on others; the rest goes on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imdb_serving.cell import FAILED, OK, Cell, Row
from imdb_serving.errors import HostLost, ServerStartError
from imdb_serving.experiment import grid
from imdb_serving.measurement.deployment import THIS_MACHINE
from imdb_serving.measurement.ledger import Ledger, newest
from imdb_serving.measurement.measure import Round, Session, Target, review_workload
from imdb_serving.measurement.parameters import GridParams


class Machines:
    """A site whose machines are lost in the middle of some measurements, or when they are asked for."""

    def __init__(self, lost_at: Collection[int] = (), absent_at: Collection[int] = ()) -> None:
        self.lost_at, self.absent_at, self.measured, self.asked, self.client_cores = lost_at, absent_at, 0, 0, 1

    @property
    def nodes(self) -> tuple[str, ...]:
        return (f"server and clients on node {self.asked}",)

    def locked_folder(self, folder: Path) -> Any:
        return nullcontext()

    def start_round(self, params: GridParams, ledger: Ledger) -> Round:
        return THIS_MACHINE.start_round(params, ledger)

    @contextmanager
    def reserved(self, params: GridParams) -> Iterator[None]:
        self.asked += 1
        if self.asked in self.absent_at:
            raise HostLost("no node is left that could be used")
        yield

    def at_once(self, runs: object) -> int:
        return 1

    def start_server(self, params: GridParams, stack: ExitStack) -> Target:
        return None  # type: ignore[return-value]

    def start_clients(self, params: GridParams, target: Target, stack: ExitStack) -> Session:
        return None  # type: ignore[return-value]

    def measure(self, cell: Cell, context: Round, *_others: object) -> tuple[Row, list[Any]]:
        self.measured += 1
        if self.measured in self.lost_at:
            raise HostLost("node 10.0.0.2 was lost: it has died")
        row = context.row(cell)
        return msgspec.structs.replace(row, answered=1), []


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(machines: Machines) -> tuple[list[Row], Ledger, list[str]]:
        said: list[str] = []
        monkeypatch.setattr(grid, "deployment_of", lambda params: machines)
        monkeypatch.setattr(grid, "measure", machines.measure)
        monkeypatch.setattr(grid, "ceilings", lambda *_: {})
        monkeypatch.setattr(grid, "inputs_of", lambda *_: grid.Inputs([], review_workload))
        params = GridParams(engine="none", client_threads=[1, 2, 3], samples=3, outputs=str(tmp_path), run="one")
        return grid.run_grid(params, said.append), Ledger(tmp_path / "adhoc"), said

    return run


def test_the_cell_is_measured_again_elsewhere_and_the_others_there_too(run: Any) -> None:
    rows, ledger, _ = run(Machines(lost_at={2}))
    assert [row.status for row in rows] == [OK] * 3
    written = ledger.rows()
    assert [row.status for row in written] == [OK, FAILED, OK, OK]
    assert written[1].error == "HostLost: node 10.0.0.2 was lost: it has died"
    assert written[1].cell == written[2].cell
    assert [row.nodes[0][-1] for row in written] == ["1", "1", "2", "2"]
    assert {row.status for row in newest(written)} == {OK}


def test_a_cell_that_loses_two_machines_fails_and_the_others_go_on(run: Any) -> None:
    rows, ledger, _ = run(Machines(lost_at={1, 2}))
    assert sorted(row.status for row in rows) == [FAILED, OK, OK]
    assert [row.status for row in ledger.rows()] == [FAILED, FAILED, OK, OK]


def test_each_cell_has_its_own_second_try(run: Any) -> None:
    rows, _, _ = run(Machines(lost_at={1, 3, 5}))
    assert [row.status for row in rows] == [OK] * 3


def test_machines_lost_while_they_are_asked_for_are_asked_for_once_more(run: Any) -> None:
    rows, _, said = run(Machines(absent_at={1}))
    assert [row.status for row in rows] == [OK] * 3
    assert "a machine was lost, others are asked for: no node is left that could be used" in said


def test_without_machines_all_cells_fail_with_the_reason(run: Any) -> None:
    rows, _, _ = run(Machines(absent_at={1, 2, 3, 4}))
    assert {(row.status, row.error) for row in rows} == {(FAILED, "HostLost: no node is left that could be used")}


def test_a_server_that_does_not_start_is_not_tried_elsewhere(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = Machines()

    def refuse(*_: object) -> None:
        raise ServerStartError("no such pipeline")

    monkeypatch.setattr(machines, "start_server", refuse)
    rows, _, _ = run(machines)
    assert (machines.asked, {row.error for row in rows}) == (1, {"ServerStartError: no such pipeline"})


def test_a_row_says_on_which_machines_it_was_measured(run: Any) -> None:
    rows, _, _ = run(Machines())
    assert {row.nodes for row in rows} == {("server and clients on node 1",)}
