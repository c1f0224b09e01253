"""A small sweep within this process, for a notebook: the same shuffled rounds and A/A pair, without a notebook a run.

It is not resumed where it was stopped; `imdb-serving sweep` is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from imdb_serving.bench.analysis.cells import unsettled
from imdb_serving.bench.cell import plural
from imdb_serving.bench.parameters import SweepParams
from imdb_serving.bench.record.folders import new_run
from imdb_serving.bench.record.rows import Row, frame
from imdb_serving.bench.runs.grid import run_grid
from imdb_serving.bench.runs.sweep import plan
from imdb_serving.config import at_home, check_output, project_root

Say = Callable[[str], None]


def run_rounds(params: SweepParams, sweep: str, outputs: str = "", say: Say = print) -> Path:
    """Measure every cell in every round, and once more where noise asks for it; return the sweep's folder.

    `outputs` is the folder in which the sweep's is made, empty for the project's. Raises `ConfigError` as a grid run
    does; a cell that fails is a row with its reason.
    """
    folder = check_output(at_home(outputs) if outputs else project_root() / "outputs")
    run = new_run()
    rows: list[Row] = []
    for number in range(1, params.rounds + params.extra_rounds + 1):
        if number > params.rounds:
            noisy = unsettled(frame(rows))
            if not noisy:
                break
            say(f"{plural(len(noisy), 'cell')} not settled, so all are measured once more")
        rows += _round(params, number, sweep, run, folder, say)
    return folder / sweep


def _round(params: SweepParams, number: int, sweep: str, run: str, folder: Path, say: Say) -> list[Row]:
    runs = plan(msgspec.structs.replace(params, rounds=number), sweep, run, folder)
    rows = [row for one in runs if one.round == number for row in run_grid(one, lambda _line: None)]
    failed = sum(not row.answered for row in rows)
    say(f"round {number}: {plural(len(rows), 'cell')}{f', {failed} of them failed' if failed else ''}")
    return rows
