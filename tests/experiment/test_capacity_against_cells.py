"""What the simulation says of open loops, against open loops: the simulated engine at 48 workers, and a real engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imdb_serving.analysis.capacity import node_of, ways
from imdb_serving.analysis.queueing import simulate
from imdb_serving.cell import OK, Row
from imdb_serving.experiment.grid import run_grid
from imdb_serving.measurement.ledger import Ledger, read_samples
from imdb_serving.measurement.parameters import GridParams

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]
ROUNDS = 3


def measured(folder: Path, clients: dict[int, int], rates: list[float], senders: int, **changes: Any) -> list[Row]:
    """Closed loops of client counts, each with so many samples, and open loops at these rates, in each round."""
    shared = {"outputs": str(folder), "sweep": "check", "run": "one", "timeout": 30.0} | changes
    for number in range(1, ROUNDS + 1):
        for count, samples in clients.items():
            loop = {"client_threads": [count], "samples": samples}
            run_grid(GridParams(**shared, **loop, round=number), lambda text: None)  # type: ignore[arg-type]
        open_loop = {"client_threads": [senders], "samples": 2400, "arrivals": "poisson", "rates": rates}
        run_grid(GridParams(**shared, **open_loop, round=number), lambda text: None)  # type: ignore[arg-type]
    return [row for row in Ledger(folder / "check").rows() if row.cell.series == "grid" and row.status == OK]


def compared(folder: Path, rows: list[Row]) -> dict[float, tuple[float, float]]:
    """The 95th percentile (ms) by rate: simulated, and measured, the median of the rounds."""
    (way,) = ways(rows, lambda row: list(read_samples(folder / "check", row.raw)["client_infer_ns"]))
    node, _ = node_of(way, way.clients)
    found = {}
    for rate in sorted({rate for rate, _ in way.open_loops}):
        tails = [p95_s for other, p95_s in way.open_loops if other == rate]
        simulated = float(np.percentile(simulate(node, 1, rate, 40_000), 95))
        found[rate] = (simulated * 1000, float(np.median(tails)) * 1000)
        print(
            f"{rate:,.0f} requests/s of {node.most:,.0f}: p95 {found[rate][0]:.2f} ms simulated, {found[rate][1]:.2f}"
        )
    return found


def test_48_simulated_workers_answer_as_simulated(tmp_path: Path) -> None:
    counts = {count: max(40 * count, 60) for count in (1, 2, 4, 8, 16, 32, 48, 64)}
    rows = measured(
        tmp_path, counts, [300.0, 600.0, 800.0], 96, engine="simulated", service_time_ms=50.0, server_threads=48
    )
    found = compared(tmp_path, rows)
    if len(found) < 3:
        pytest.skip("this machine could not offer the rates")
    assert all(simulated == pytest.approx(real, rel=0.3) for simulated, real in found.values()), found


def test_a_real_engine_is_within_its_factor(tmp_path: Path) -> None:
    """On shared cores open loops cost more: what is told is that by which it was off, and that it is not off wildly."""
    counts = dict.fromkeys((1, 2, 3, 4, 6, 8), 2400)
    rows = measured(tmp_path, counts, [40.0, 80.0], 8, engine="onnxruntime", server_threads=2, batch=16)
    found = compared(tmp_path, rows)
    if len(found) < 2:
        pytest.skip("this machine could not offer the rates")
    assert all(0.5 < real / simulated < 3.0 for simulated, real in found.values()), found
