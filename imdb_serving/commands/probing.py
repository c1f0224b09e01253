"""What commands share that probe one server by turns, `slo` and `mlperf`: its parameters, and cells of any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from imdb_serving.bench.cell import SEARCH, Cell
from imdb_serving.bench.parameters import GridParams
from imdb_serving.bench.record.folders import new_run
from imdb_serving.bench.runs.models import require_model
from imdb_serving.engines.registry import facts_of

SAMPLES = 5000
"""Different reviews at most; more requests send them again."""


def probe_params(sweep: str, clients: int, model: Path | None, **options: Any) -> GridParams:
    """Return the parameters of a server to probe, its rows in the folder `sweep`; the model is there after this."""
    params = GridParams(
        **options,
        model=str(model.resolve()) if model else "",
        client_threads=[clients],
        series=SEARCH,
        sweep=sweep,
        run=new_run(),
        samples=SAMPLES,
    )
    if facts_of(params.engine).needs_model:
        require_model(params)
    return params


def with_requests(cell: Cell, requests: int) -> Cell:
    """Return the cell with about so many requests, in whole passes over its reviews."""
    return msgspec.structs.replace(cell, samples=min(requests, SAMPLES), passes=-(-requests // SAMPLES))
