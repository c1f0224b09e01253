"""Proofs on live servers: faults make a cell invalid by name, laws hold, stages add up, and equal things do not differ.

What needs a quiet machine or much time is slow, for `make test-all`.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from live import SIMULATED, gates_of, served

from imdb_serving.analysis.bounds import CLIENTS, WORKERS, utilisation
from imdb_serving.analysis.cells import frame
from imdb_serving.analysis.compare import SAME, compare_rows
from imdb_serving.cell import Row
from imdb_serving.clients.connect import CURL
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.server_process import MODES


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers find the faulty pipelines."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("mode", ["rpc", "flask"])
def test_a_wrong_answer_of_one_worker_makes_the_cell_invalid_by_name(mode: str) -> None:
    with served(mode, SIMULATED, 2, 4, pipeline="faulty_pipelines:wrong_in_one_worker") as measured:
        row = measured(client_threads=4, samples=60)
    assert "answers" in gates_of(row)
    assert row.status == "invalid"
    assert row.difference == pytest.approx(0.4)


@pytest.mark.usefixtures("faulty")
def test_a_dropped_reply_makes_the_cell_invalid_by_name() -> None:
    with served("rpc", EngineSpec("none"), 1, 1, pipeline="faulty_pipelines:one_late", timeout=0.5) as measured:
        row = measured(client_threads=1, samples=40)
    assert "errors" in gates_of(row)
    assert row.failed_requests >= 1
    assert "the deadline passed" in row.error or "no reply" in row.error


def test_a_foreign_process_that_burns_a_core_makes_the_cell_invalid_by_name() -> None:
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with served("rpc", SIMULATED, 2, 2) as measured:
            row = measured(client_threads=2, samples=160)
    finally:
        burner.kill()
        burner.wait()
    assert "alone" in gates_of(row)
    assert "other processes used" in row.why


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("mode", ["rpc", "socket", "flask", "flask-gateway", "flask-dev"])
def test_an_op_of_ones_own_is_a_stage_of_every_mode(mode: str) -> None:
    with served(mode, EngineSpec("none"), 1, 1, pipeline="faulty_pipelines:rounded") as measured:
        row = measured(client_threads=1, samples=30)
        with measured.connect() as client:
            ops = client.hello().ops
    assert row.error == ""
    assert ops == ("op0", "op1", "op2", "round")
    place = row.stages.index("round")
    assert row.stages[place - 1] == "op2"
    assert row.stages[place + 1] == "reply"
    parts = sum(row.means_us[name] for name in row.stages)
    assert parts <= row.means_us["client_infer"] * 1.000001
    assert "stages" not in gates_of(row)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["keep-alive", CURL])
def test_stages_add_up_in_every_mode(mode: str, kind: str) -> None:
    if kind == CURL and not mode.startswith("flask"):
        pytest.skip("curl speaks HTTP")
    with served(mode, EngineSpec("none"), 2, 2, kind=kind) as measured:
        row = measured(client_threads=2, samples=60 if kind == CURL else 600)
    assert row.error == ""
    assert row.figures.residual_us is not None
    assert row.figures.residual_us <= max(0.01 * row.means_us["total"], 50)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "clients"), [(1, 4), (2, 1), (2, 2), (2, 8), (4, 2), (4, 16)])
def test_a_service_time_gives_what_queueing_theory_says(workers: int, clients: int) -> None:
    """Never more than min(N, m) / S, and within 2 % of what that is once serving's own time is counted.

    That time is in the row: the CPU time of a busy worker besides the sleep, or all that a lone client waits for. It is
    1 to 8 % of 5 ms, by how fast a machine wakes from it.
    """
    service_s = SIMULATED.service_time_ms / 1000
    with served("socket", SIMULATED, workers, clients) as measured:
        row = measured(client_threads=clients, samples=400 * min(clients, workers))
    assert row.error == ""
    assert row.means_us["op1"] == pytest.approx(service_s * 1e6, rel=0.02)
    assert row.figures.in_flight == pytest.approx(clients, rel=0.03)
    (cell,) = frame([row]).to_dict("records")
    busy = utilisation(cell, cores=64)  # it sleeps: however many cores there are, they are not what limits
    if clients != workers:  # as many of both: either is what limits
        assert busy.limit == (WORKERS if clients > workers else CLIENTS)
    serving_s = row.figures.server_cpu_us / 1e6 if clients > workers else row.means_us["total"] / 1e6 - service_s
    law = min(clients, workers) / service_s
    assert row.figures.throughput <= law * 1.005
    assert row.figures.throughput >= 0.98 * min(clients, workers) / (service_s + serving_s)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_of_equals_finds_no_difference_in_nineteen_of_twenty() -> None:
    """Each of twenty sweeps has five shuffled rounds of four cells, and an A/A pair of each."""
    clean = 0
    with served("rpc", EngineSpec("none"), 2, 4) as measured:
        for sweep in range(20):
            generator = np.random.default_rng(sweep)
            rows = []
            for number in range(1, 6):
                cells = list(itertools.product((1, 2, 3, 4), ("grid", "twin")))
                generator.shuffle(cells)
                for count, series in cells:
                    rows.append(measured(number, client_threads=int(count), series=str(series), samples=600))
            clean += _no_difference([msgspec.structs.replace(row, key=row.cell.key) for row in rows])
    assert clean >= 19


def _no_difference(rows: list[Row]) -> bool:
    first = frame([row for row in rows if row.cell.series == "grid"])
    second = frame(
        [
            msgspec.structs.replace(row, cell=msgspec.structs.replace(row.cell, series="grid"))
            for row in rows
            if row.cell.series == "twin"
        ]
    )
    made = compare_rows(first, second)
    return made.called == SAME and all(one.called == SAME for one in made.cells)
