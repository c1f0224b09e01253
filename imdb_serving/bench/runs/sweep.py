"""A sweep: the shuffled plan of grid runs, what of it is done already, and running the rest one at a time.

Knows parameters, the ledger's rows and keys; how a run is executed is handed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec

from imdb_serving.bench.analysis.cells import unsettled
from imdb_serving.bench.cell import GRID, LOCAL_MODES, TWIN, Cell
from imdb_serving.bench.parameters import GridParams, SweepParams, model_folder
from imdb_serving.bench.record.ledger import Ledger, newest
from imdb_serving.bench.record.locks import exclusive
from imdb_serving.bench.record.rows import Row, frame
from imdb_serving.bench.runs.measuring import row_key
from imdb_serving.bench.runs.site import MEASURING, Site
from imdb_serving.errors import DataError

FILE = "plan.json"
ORPHAN_SECONDS = 600.0


class Plan(msgspec.Struct, frozen=True):
    """What a sweep is to measure: the run's name, the rounds, the key of every cell, and the file that says so."""

    run: str
    rounds: int
    keys: dict[str, Cell]
    file: str = "FILE"


def plan(params: SweepParams, sweep: str, run: str, outputs: Path) -> list[GridParams]:
    """Return the grid runs of a sweep: each round is one pass over all modes and server-thread counts, shuffled."""
    generator = random.Random(params.seed)  # noqa: S311 - an order, not a secret
    grids = params.every_grid()
    runs = []
    for number in range(1, params.rounds + 1):
        one_round = [part.grid(axes, number, sweep, run, outputs) for part, axes in grids]
        if params.twin and (twin := twin_of(one_round)):
            one_round.append(twin)
        runs += generator.sample(one_round, len(one_round))
    return runs


def twin_of(runs: Sequence[GridParams]) -> GridParams | None:
    """Return the second of the A/A pair: the grid run of the first mode and its middle server count, once more.

    None when nothing is served.
    """
    served = [run for run in runs if run.mode not in LOCAL_MODES]
    if not served:
        return None
    alike = [
        run
        for run in served
        if run.cells()[0].without("server_threads") == served[0].cells()[0].without("server_threads")
    ]
    middle = sorted(alike, key=lambda run: run.server_threads)[(len(alike) - 1) // 2]
    return msgspec.structs.replace(middle, series=TWIN)


def keys_of(runs: Sequence[GridParams], ledger: Ledger, site: Site) -> dict[str, Cell]:
    """Return the key of every cell of these runs, on these machines with this code and model."""
    keys: dict[str, Cell] = {}
    identities: dict[tuple[object, ...], str] = {}
    for one in runs:
        place = (one.engine, str(model_folder(one)), one.nodes)
        if place not in identities:
            identities[place] = site.start_round(one, ledger).identity
        keys |= {row_key(cell, identities[place]): cell for cell in one.cells()}
    return keys


def resumed_run(ledger: Ledger, keys: dict[str, Cell]) -> str | None:
    """Return the newest run that measured any of these cells; None when none did, and everything is to be measured."""
    return next((row.run for row in reversed(ledger.rows()) if row.key in keys), None)


def rounds_begun(ledger: Ledger, run: str) -> int:
    """Return the last round of the grid that a run has a row of, 0 for none."""
    return max((row.round for row in ledger.rows() if row.run == run and row.cell.series == GRID), default=0)


def unsettled_cells(ledger: Ledger, run: str, keys: dict[str, Cell]) -> dict[Hashable, str]:
    """Return the cells of a run that another round of all may settle, each with why."""
    rows = [row for row in newest(ledger.rows()) if row.run == run and row.key in keys]
    return unsettled(frame(rows)) if rows else {}


def pending(runs: Sequence[GridParams], ledger: Ledger, keys: dict[str, Cell]) -> list[GridParams]:
    """Return what is left to measure: runs without the client counts whose cells are done, and no run that is."""
    of_cell = {cell: key for key, cell in keys.items()}
    done = ledger.done(runs[0].run)
    left = []
    for one in runs:
        missing = {cell.client_threads for cell in one.cells() if (of_cell[cell], one.round) not in done}
        if missing:
            counts = [count for count in one.client_threads if count in missing]
            left.append(msgspec.structs.replace(one, client_threads=counts))
    return left


def write_plan(folder: Path, made: Plan) -> None:
    """Write down what the sweep is to measure, for reports and the next run."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{FILE}.part"
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    unfinished.replace(folder / FILE)


def read_plan(folder: Path) -> Plan | None:
    """Return a sweep's plan; None when there is none, as beside a lone notebook's ledger."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is damaged: {error}; run the sweep again") from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a sweep's folder for the block; raise `DataError` when another sweep is at work in it.

    A sweep that was killed may have left a notebook that is still measuring: its last row is waited for.
    """
    with exclusive(folder, "sweep", 0.0, "another sweep"):
        with exclusive(folder, MEASURING, ORPHAN_SECONDS, "a measurement of another sweep"):
            pass
        yield


def run_plan(
    runs: Sequence[GridParams],
    execute: Callable[[GridParams], None],
    report_failure: Callable[[GridParams, Exception], None],
    at_once: int = 1,
    interrupt: Callable[[], None] = lambda: None,
) -> None:
    """Execute the runs in their order, so many `at_once`; one that fails is reported and the sweep goes on.

    When it is interrupted, no run begins any more; `interrupt` has those that are under way end.
    """

    def one(run: GridParams) -> None:
        try:
            execute(run)
        except Exception as error:
            report_failure(run, error)

    if at_once == 1:
        for run in runs:
            one(run)
        return
    with ThreadPoolExecutor(at_once) as threads:
        begun = [threads.submit(one, run) for run in runs]
        try:
            for future in begun:
                future.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            interrupt()
            raise


def record_failure(params: GridParams, error: Exception, ledger: Ledger, site: Site) -> list[Row]:
    """Append a failed row for every cell that a run left without one: the reason is not lost with the notebook."""
    around = site.start_round(params, ledger)
    there = {(row.key, row.round) for row in ledger.rows() if row.run == params.run}
    rows = [around.failed(cell, error) for cell in params.cells()]
    return [ledger.append(row, []) for row in rows if (row.key, row.round) not in there]
