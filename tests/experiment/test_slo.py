"""The search for the most load that holds a limit, on probes whose edge is known, and on a simulated engine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imdb_serving.cell import Cell, Figures, Finding, Row
from imdb_serving.cli.slo import run_slo
from imdb_serving.errors import ConfigError
from imdb_serving.experiment.slo import STEPS, Limit, Probe, find_edge, holds
from imdb_serving.measurement.ledger import Ledger

LIMIT = Limit("p95", 20.0)


def probe_with_edge_at(edge: float, *, power: float = 1.0, asked: list[float] | None = None) -> Any:
    """A load's latency is 20 ms at the edge, and grows with a power of the load."""

    def probe(load: float) -> Probe:
        if asked is not None:
            asked.append(load)
        latency = 20.0 * (load / edge) ** power
        return Probe(load, 3 if latency <= 20 else 0, 3, latency, f"p95 {latency:.3g} ms")

    return probe


@pytest.mark.parametrize("edge", [31.0, 400.0, 997.0])
def test_the_edge_is_found_within_five_per_cent_in_few_probes(edge: float) -> None:
    asked: list[float] = []
    found = find_edge(probe_with_edge_at(edge, asked=asked), 20, 1000)
    assert found.holds is not None
    assert found.breaks is not None
    assert found.holds <= edge < found.breaks <= found.holds * 1.051
    assert len(asked) <= STEPS + 2
    assert [probe.load for probe in found.probes] == sorted(asked)


@pytest.mark.parametrize("edge", range(1, 17))
def test_the_most_clients_are_found_exactly(edge: int) -> None:
    found = find_edge(probe_with_edge_at(edge), 1, 16, whole=True)
    assert found.holds == edge
    assert found.breaks == (edge + 1 if edge < 16 else None)


def test_a_limit_that_nothing_holds_is_not_reached() -> None:
    found = find_edge(probe_with_edge_at(1.0), 20, 1000)
    assert (found.holds, len(found.probes)) == (None, 1)


def test_what_holds_everywhere_is_not_looked_for_further() -> None:
    found = find_edge(probe_with_edge_at(5000.0), 20, 1000)
    assert (found.holds, found.breaks, len(found.probes)) == (1000, None, 2)


def test_a_slope_and_a_cliff_are_told_apart() -> None:
    assert find_edge(probe_with_edge_at(400, power=1), 20, 1000).shape == "slope"
    assert find_edge(probe_with_edge_at(400, power=1), 20, 1000).growth == pytest.approx(1)
    assert find_edge(probe_with_edge_at(400, power=12), 20, 1000).shape == "cliff"

    def fails(load: float) -> Probe:
        return Probe(load, 3, 3, 5.0, "") if load < 400 else Probe(load, 0, 3, math.inf, "requests failed")

    assert find_edge(fails, 20, 1000).shape == "cliff"


def test_loads_that_hold_by_turns_lie_between_the_ends() -> None:
    def by_turns(load: float) -> Probe:
        held = 3 if load < 380 else 1 if load < 420 else 0
        return Probe(load, held, 3, load / 20, "")

    found = find_edge(by_turns, 20, 1000)
    assert found.holds is not None
    assert found.breaks is not None
    assert found.holds < 380
    assert found.breaks >= 420


def row(**figures: Any) -> Row:
    own = {name: figures.pop(name) for name in ("failed_requests", "unsent", "findings") if name in figures}
    return Row(
        run="a", key="k", cell=Cell(), round=1, began="", seed=1, card="", requests=1000,
        figures=Figures(**{"p95_us": 19_000.0} | figures), **own,
    )  # fmt: skip


def test_what_holds_a_limit_and_what_breaks_it() -> None:
    assert holds(row(), LIMIT)[0]
    assert not holds(row(p95_us=21_000.0), LIMIT)[0]
    assert holds(row(p95_us=None), LIMIT) == (False, math.inf, "p95 not certifiable with n 1000")
    assert not holds(row(failed_requests=1), LIMIT)[0]
    assert holds(row(failed_requests=9), Limit("p95", 20.0, errors=0.01))[0]
    assert not holds(row(unsent=11), Limit("p95", 20.0, errors=0.01))[0]
    unreached = row(findings=(Finding("rate", "90 of 100 requests/s were reached"),))
    assert holds(unreached, LIMIT) == (False, 19.0, "rate: 90 of 100 requests/s were reached")


def test_one_limit_is_asked_for() -> None:
    for given in ({}, {"p95": 20.0, "p99": 30.0}):
        options: dict[str, Any] = dict.fromkeys(("p50", "p90", "p95", "p99")) | given
        with pytest.raises(ConfigError, match="give one limit"):
            run_slo(errors=0.0, clients=1, seconds=1.0, rounds=1, model=None, **options)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(600)
def test_a_simulated_engine_holds_what_its_workers_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two workers of 5 ms: 400 requests a second at most; with eight clients a request takes 20 ms."""
    options: dict[str, Any] = dict.fromkeys(("p50", "p90", "p99")) | {"p95": 40.0, "mode": "rpc", "engine": "simulated"}
    code = run_slo(
        errors=0.0, clients=16, seconds=1.0, rounds=2, model=None, server_threads=2, outputs=str(tmp_path),
        service_time_ms=5.0, distribution="fixed", seed=1, **options,
    )  # fmt: skip
    said = capsys.readouterr().out
    assert code == 0
    rate, clients, _ = said.splitlines()
    assert rate.startswith("highest rate: ")
    highest = float(rate.split()[2].replace(",", ""))
    assert 200 < highest < 400
    most = float(clients.split()[2])
    assert 10 <= most <= 15
    rows = Ledger(tmp_path / "slo").rows()
    assert {one.cell.series for one in rows} == {"search", "calibration"}
    assert len({one.raw for one in rows}) == len(rows)
    options["p95"] = 3.0
    assert msgspec.json.encode(options)
    code = run_slo(
        errors=0.0, clients=2, seconds=1.0, rounds=1, model=None, server_threads=2, outputs=str(tmp_path),
        service_time_ms=5.0, distribution="fixed", seed=1, **options,
    )  # fmt: skip
    assert code == 1
    assert capsys.readouterr().out.count("not reached") == 2
