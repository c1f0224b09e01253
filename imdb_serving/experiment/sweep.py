"""A sweep: the shuffled plan of grid runs, which are done already, about how long the rest takes, and running it.

How one run is executed (papermill, or in this process) is given by the caller.
"""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec

from imdb_serving.analysis.cells import unsettled
from imdb_serving.cell import AA_REPEAT, GRID, LADDER, LOCAL_MODES, OFFLINE, Cell, plural
from imdb_serving.config import at_home, check_output, project_root, whole_file
from imdb_serving.engines.registry import facts_of
from imdb_serving.errors import DataError
from imdb_serving.experiment.grid import run_grid
from imdb_serving.measurement.deployment import MEASURING, Deployment
from imdb_serving.measurement.folders import exclusive, new_run
from imdb_serving.measurement.ledger import Ledger, newest
from imdb_serving.measurement.measure import row_key
from imdb_serving.measurement.parameters import GridParams, SweepParams, model_folder
from imdb_serving.rows import Row, frame

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
        if params.twin and (twin := aa_repeat_of(one_round)):
            one_round.append(twin)
        runs += generator.sample(one_round, len(one_round))
    return runs


def aa_repeat_of(runs: Sequence[GridParams]) -> GridParams | None:
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
    return msgspec.structs.replace(middle, series=AA_REPEAT)


def keys_of(runs: Sequence[GridParams], ledger: Ledger, deployment: Deployment) -> dict[str, Cell]:
    """Return the key of every cell of these runs, on these machines with this code and model."""
    keys: dict[str, Cell] = {}
    identities: dict[tuple[object, ...], str] = {}
    for one in runs:
        place = (one.engine, str(model_folder(one)), one.nodes)
        if place not in identities:
            identities[place] = deployment.start_round(one, ledger).identity
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
    with whole_file(folder / FILE) as unfinished:
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")


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


def record_failure(params: GridParams, error: Exception, ledger: Ledger, deployment: Deployment) -> list[Row]:
    """Append a failed row for every cell that a run left without one: the reason is not lost with the notebook."""
    context = deployment.start_round(params, ledger)
    there = {(row.key, row.round) for row in ledger.rows() if row.run == params.run}
    rows = [context.failed(cell, error) for cell in params.cells()]
    return [ledger.append(row, []) for row in rows if (row.key, row.round) not in there]


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


RUN_SECONDS = 5.0
"""A notebook run without its cells: a kernel, a server, clients and a figure."""

REQUEST_MS = {"rpc": 0.15, "socket": 0.1, "flask": 0.25, "flask-gateway": 0.5, "flask-dev": 0.6}
CURL_MS = 9.0
REVIEW_MS = {"process": 0.6, "thread": 0.1}
"""Guesses for a machine that nothing is known of yet, of one core."""

LADDER_SECONDS, LADDER_BLOCKS_SECONDS = 9.0, 1.4
"""An engine's servers to start and warm up, and a round of all its rungs."""


def estimate_seconds(params: SweepParams, left: Sequence[GridParams], rows: Sequence[Row]) -> float:
    """Return about how many seconds these runs and the sweep's ladder take; by what cells took before, where known."""
    took: dict[Cell, list[float]] = {}
    for row in rows:
        if row.figures.wall_s:
            took.setdefault(row.cell, []).append(row.figures.wall_s)
    cells = [(one, cell) for one in left for cell in one.cells()]
    measuring = sum(statistics.median(took[cell]) if cell in took else _guess(one, cell) for one, cell in cells)
    return RUN_SECONDS * len(left) + measuring + _ladder(params, rows)


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
