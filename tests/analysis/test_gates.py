"""Every gate: a sound row passes, and what it is for makes a row fail it, by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from imdb_serving.analysis.gates import GATES, judge
from imdb_serving.cell import Cell, Figures, Row
from imdb_serving.measurement.measure import judged

CLOSED = Cell(engine="none", client_threads=4, server_threads=2)
OPEN = msgspec.structs.replace(CLOSED, arrivals="poisson", rate=1000.0)
SOUND: dict[str, Any] = {
    "wall_s": 1.0, "in_flight": 4.0, "residual_us": 1.0, "of_ceiling": 0.5, "offered": 1000.0, "achieved": 999.0,
    "foreign_cores": 0.05, "steal_cores": 0.0,
}  # fmt: skip


def row(cell: Cell = CLOSED, own: dict[str, Any] | None = None, **figures: Any) -> Row:
    values: dict[str, Any] = {
        "run": "a", "key": "k", "cell": cell, "round": 1, "began": "", "seed": 1, "card": "", "requests": 100,
        "answered": 100, "means_us": {"total": 1000.0}, "difference": 1e-7,
    }  # fmt: skip
    return Row(**values | (own or {}), figures=Figures(**SOUND | figures))


def gates_of(made: Row) -> list[str]:
    return [finding.gate for finding in judge(made)]


@pytest.mark.parametrize("cell", [CLOSED, OPEN])
def test_a_sound_row_passes_every_gate(cell: Cell) -> None:
    assert judge(row(cell)) == ()
    assert judged(row(cell)).status == "ok"


FAILING = {
    "errors": row(own={"failed_requests": 1}),
    "answers": row(own={"difference": 2e-4}),
    "stages": row(residual_us=51.0),
    "little": row(in_flight=3.8),
    "rate": row(OPEN, achieved=985.0),
    "clients": row(of_ceiling=0.71),
    "alone": row(foreign_cores=1.0),
    "throttled": row(throttled_s=0.02),
}


@pytest.mark.parametrize("gate", FAILING)
def test_what_a_gate_is_for_makes_a_row_invalid_by_its_name(gate: str) -> None:
    made = judged(FAILING[gate])
    assert gates_of(made) == [gate]
    assert made.status == "invalid"
    (finding,) = made.findings
    assert finding.remedy
    assert made.why.startswith(f"{gate}: ")


def test_every_gate_has_its_case() -> None:
    assert len(FAILING) == len(GATES)


def test_a_row_without_an_answer_is_failed() -> None:
    assert judged(row(own={"answered": 0, "error": "gone", "failed_requests": 100})).status == "failed"


def test_limits_are_shares_where_requests_are_long() -> None:
    long = {"means_us": {"total": 20_000.0}}
    assert gates_of(row(own=long, residual_us=190.0)) == []
    assert gates_of(row(own=long, residual_us=210.0)) == ["stages"]


def test_answers_that_are_no_numbers_are_wrong() -> None:
    assert gates_of(row(own={"difference": float("nan")})) == ["answers"]
    assert gates_of(row(own={"difference": float("inf")})) == ["answers"]
    assert gates_of(row(own={"difference": None})) == []  # a pipeline of one's own: there is nothing to compare with


def test_requests_never_sent_are_counted() -> None:
    assert gates_of(row(OPEN, own={"unsent": 3})) == ["rate"]


def test_a_hypervisor_that_takes_cores_is_named() -> None:
    made = judged(row(steal_cores=0.5))
    assert "the hypervisor gave 0.5 cores to others" in made.why


def test_a_moment_is_not_called_a_stranger() -> None:
    """The kernel counts in hundredths of a second: in a tenth of a second, a third of a core is nothing yet."""
    assert gates_of(row(foreign_cores=0.3, wall_s=0.1)) == []


def test_loops_without_a_server_do_not_queue() -> None:
    assert gates_of(row(msgspec.structs.replace(CLOSED, mode="bare"), in_flight=1.0)) == []
    assert gates_of(row(OPEN, in_flight=1.0)) == []  # nor do N clients stand in an open loop
