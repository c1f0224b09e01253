"""About how long a sweep takes: from what its cells took before, else from guesses."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from imdb_serving.cell import LADDER, OFFLINE, Cell, Row
from imdb_serving.engines.registry import facts_of
from imdb_serving.measurement.parameters import GridParams, SweepParams

RUN_SECONDS, CELL_SECONDS = 2.0, 0.08
"""What a grid run takes besides its timed windows: a server, clients and a figure, and what each cell adds."""

REQUEST_MS = {"rpc": 0.15, "socket": 0.1, "flask": 0.25, "flask-gateway": 0.5, "flask-dev": 0.6, "http": 0.3}
CURL_MS = 9.0
REVIEW_MS = {"process": 0.6, "thread": 0.1}
"""Guesses for a machine that nothing is known of yet, of one core."""

LADDER_SECONDS, LADDER_BLOCKS_SECONDS = 11.0, 1.9
"""An engine's servers to start and warm up, and a round of all its rungs."""


Left = Sequence[tuple[GridParams, Sequence[Cell]]]
"""Grid runs with their cells that are to be measured."""


def about(params: SweepParams, left: Left, rows: Sequence[Row]) -> str:
    """Return in words how long these runs' cells and the sweep's ladder take."""
    minutes = (sum(estimate_seconds(left, rows)) + _ladder(params, rows)) / 60
    return "about a minute" if minutes < 1.5 else f"about {minutes:.0f} minutes"


def estimate_seconds(left: Left, rows: Sequence[Row]) -> tuple[float, float]:
    """Return about how many seconds these runs' cells are measured, and how many pass besides.

    What cells took before is taken from `rows`.
    """
    took: dict[Cell, list[float]] = {}
    for row in rows:
        if row.figures.wall_s:
            took.setdefault(row.cell, []).append(row.figures.wall_s)
    cells = [(one, cell) for one, cells in left for cell in cells]
    measuring = sum(statistics.median(took[cell]) if cell in took else _guess(one, cell) for one, cell in cells)
    return measuring, RUN_SECONDS * len(left) + CELL_SECONDS * len(cells)


def _ladder(params: SweepParams, rows: Sequence[Row]) -> float:
    if not params.ladder_rounds or any(row.cell.series == LADDER for row in rows):
        return 0.0
    engines = len({part.engine for part in params.parts()} | {"none"})
    return engines * (LADDER_SECONDS + params.ladder_rounds * LADDER_BLOCKS_SECONDS)


def _guess(params: GridParams, cell: Cell) -> float:
    requests = cell.samples / cell.batch
    if cell.rate:
        return requests / cell.rate
    facts, cores = facts_of(cell.engine), os.cpu_count() or 1
    way = CURL_MS if cell.client_kind == "curl" else REQUEST_MS.get(cell.mode, 0.0)
    model = params.service_time_ms if facts.timed else REVIEW_MS[facts.worker_kind] if facts.needs_model else 0.0
    busy = cell.server_threads if facts.timed else min(cell.server_threads, cores)
    side_by_side = max(1, busy if cell.arrivals == OFFLINE else min(busy, cell.client_threads))
    return requests * (way + model * cell.batch / side_by_side) / 1000
