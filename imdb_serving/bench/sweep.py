"""A sweep: the shuffled plan of grid runs, and running them one at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from imdb_serving.bench.parameters import GridParams, SweepParams


def plan(params: SweepParams, sweep: str, run: str, outputs: Path) -> list[GridParams]:
    """Return the grid runs of a sweep: each round is one pass over all modes and server-thread counts, shuffled."""
    generator = random.Random(params.seed)  # noqa: S311 - an order, not a secret
    cells = [(part, mode, count) for part in params.parts() for mode in part.modes for count in part.server_threads]
    runs = []
    for round_ in range(1, params.rounds + 1):
        order = generator.sample(cells, len(cells))
        runs += [part.grid(mode, count, round_, sweep, run, outputs) for part, mode, count in order]
    return runs


def run_plan(
    runs: Sequence[GridParams],
    execute: Callable[[GridParams], None],
    report_failure: Callable[[GridParams, Exception], None],
) -> int:
    """Execute the runs one at a time; one that fails is reported and the sweep goes on. Returns how many failed."""
    failed = 0
    for run in runs:
        try:
            execute(run)
        except Exception as error:
            failed += 1
            report_failure(run, error)
    return failed
