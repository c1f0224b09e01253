"""`imdb-serving ladder`: the overhead ladder through its notebook, by itself or behind a sweep's grid."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from imdb_serving.bench.parameters import LadderParams, SweepParams
from imdb_serving.bench.record.folders import new_run, outputs_folder
from imdb_serving.errors import ServingError
from imdb_serving.report import ladder
from imdb_serving.report.notebooks import execute
from imdb_serving.report.page import write_page


def measure_ladder(params: SweepParams, folder: Path, run: str) -> bool:
    """Measure the overhead ladder with the sweep's engines and `none`; return whether its notebook ran through."""
    engines = list(dict.fromkeys([*(part.engine for part in params.parts() if part.net == params.net), "none"]))
    rungs = LadderParams(
        engines=engines,
        net=params.net,
        model=params.model,
        math_threads=params.math_threads,
        rounds=params.ladder_rounds,
        seed=params.seed,
        sweep=folder.name,
        run=run,
        outputs=str(folder.parent),
    )
    print(f"the overhead ladder: {rungs.rounds} rounds of {' and '.join(engines)}", file=sys.stderr)
    try:
        execute("ladder.ipynb", folder / "notebooks" / "ladder.ipynb", msgspec.to_builtins(rungs))
    except ServingError as error:
        print(f"FAILED ladder: {error}", file=sys.stderr)
        return False
    return True


def run_ladder_notebook(params: LadderParams) -> None:
    """Measure the overhead ladder through its notebook, write its page, and print its table."""
    params = msgspec.structs.replace(params, run=params.run or new_run())
    folder = outputs_folder(params).resolve()
    executed = folder / "notebooks" / "ladder.ipynb"
    engines = " and ".join(params.engines)
    print(f"the overhead ladder: {params.rounds} rounds of {engines}, to {folder}", file=sys.stderr)
    execute("ladder.ipynb", executed, {**msgspec.to_builtins(params), "outputs": str(folder.parent)})
    write_page(executed, folder / "ladder.html", "imdb-serving: the overhead ladder")
    print(ladder.text(ladder.load(folder)))
    print(f"page: {folder / 'ladder.html'}", file=sys.stderr)
