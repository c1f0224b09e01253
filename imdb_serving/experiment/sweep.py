"""A sweep: which of its planned grid runs are done already, and running the rest.

How one run is executed (papermill, or in this process) is given by the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

import msgspec

from imdb_serving.analysis.cells import frame
from imdb_serving.analysis.noise import unsettled
from imdb_serving.cell import GRID, Cell, Row, plural
from imdb_serving.config import at_home, check_output, project_root
from imdb_serving.engines.registry import facts_of
from imdb_serving.errors import DataError
from imdb_serving.experiment.estimate import about
from imdb_serving.experiment.grid import deployment_of, run_grid, unmeasured
from imdb_serving.experiment.plan import Plan, planned_rounds, read_plan, run_name, write_plan
from imdb_serving.measurement.deployment import MEASURING, Deployment
from imdb_serving.measurement.inputs import require_model
from imdb_serving.measurement.ledger import Ledger, exclusive, new_run, newest
from imdb_serving.measurement.measure import Round
from imdb_serving.measurement.parameters import GridParams, SweepParams, model_folder

ORPHAN_SECONDS = 600.0


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a sweep's folder for the block; raise `DataError` when another sweep has it.

    A sweep that was killed may have left a notebook that is still measuring: its last row is waited for.
    """
    with exclusive(folder, "sweep", 0.0, "another sweep"):
        with exclusive(folder, MEASURING, ORPHAN_SECONDS, "a measurement of another sweep"):
            pass
        yield


Say = Callable[[str], None]
Execute = Callable[[GridParams], object]


class Sweep:
    """A sweep in its folder: what is planned, what the ledger has of it, and measuring the rest by `execute`.

    A run that fails is reported and recorded, and the sweep goes on. When it is interrupted, no run begins any more;
    `interrupt` has those in progress end.
    """

    def __init__(
        self,
        params: SweepParams,
        folder: Path,
        execute: Execute,
        deployment: Deployment,
        *,
        say: Say = print,
        file: str = "",
        fresh: bool = False,
        progress: Callable[[int], AbstractContextManager[object]] = nullcontext,
        interrupt: Callable[[], None] = lambda: None,
        in_turn: bool = False,
    ) -> None:
        """Plan the first rounds: of the newest run that has any of the cells, or of a new run when `fresh`.

        `progress` is called with a number of runs, and entered while these are executed. Runs are executed `in_turn`,
        or as many at once as the deployment has places for.
        """
        self.params, self.folder, self.deployment = params, folder, deployment
        self.ledger = Ledger(folder)
        self._execute, self._interrupt, self._progress, self._say, self._file = execute, interrupt, progress, say, file
        self._planned = planned_rounds(params, folder.name, new_run(), folder.parent)
        self._runs = next(self._planned)
        self._in_turn = in_turn
        self._lock, self._spent_s = threading.Lock(), 0.0
        self._contexts: dict[tuple[object, ...], Round] = {}
        self.keys = {self._context(one).row(cell).key: cell for one in self._runs for cell in one.cells()}
        self.run = (None if fresh else self._resumed()) or self._runs[0].run
        self.rounds = 1
        with suppress(DataError):  # a damaged plan is written anew
            before = read_plan(folder)
            self._spent_s = before.spent_s if before and before.run == self.run else 0.0
        self._plan_to(max(params.rounds, self._rounds_begun()))

    def measure(self) -> None:
        """Measure what is left, and more whole rounds while noise leaves cells unsettled, up to `extra_rounds`."""
        self._measure_left()
        while self.rounds < self.params.rounds + self.params.extra_rounds and (cells := self._unsettled()):
            key, reasons = next(iter(cells.items()))
            label = self.keys[str(key)].label(["mode", "engine", "server_threads", "client_threads"])
            self._say(
                f"{plural(len(cells), 'cell')} unsettled ({label}: {reasons.partition('; ')[0]}): another round of all "
                f"cells, {self.rounds + 1 - self.params.rounds} of at most {self.params.extra_rounds}"
            )
            self._plan_to(self.rounds + 1)
            self._measure_left()

    def left(self) -> list[tuple[GridParams, list[Cell]]]:
        """Return the runs of which cells are left to measure, with those cells."""
        found = [(one, unmeasured(one, self._context(one), self.ledger)) for one in self._runs]
        return [(one, cells) for one, cells in found if cells]

    def run_rows(self) -> list[Row]:
        """Return the rows of this run, the ladder's as well, each cell and round once."""
        return [row for row in newest(self.ledger.rows()) if row.run == self.run]

    def _context(self, one: GridParams) -> Round:
        """Return what a run's rows have in common; it is found once for each engine, model and number of nodes."""
        place = (one.engine, str(model_folder(one)), one.nodes)
        if place not in self._contexts:
            self._contexts[place] = self.deployment.start_round(one, self.ledger)
        return replace(self._contexts[place], run=one.run, number=one.round)

    def _resumed(self) -> str | None:
        return next((row.run for row in reversed(self.ledger.rows()) if row.key in self.keys), None)

    def _rounds_begun(self) -> int:
        rows = self.ledger.rows()
        return max((row.round for row in rows if row.run == self.run and row.cell.series == GRID), default=0)

    def _unsettled(self) -> dict[Hashable, str]:
        rows = [row for row in self.run_rows() if row.key in self.keys]
        return unsettled(frame(rows)) if rows else {}

    def _plan_to(self, rounds: int) -> None:
        """Plan rounds up to this number, write the plan down, and print what is left."""
        for _ in range(rounds - self.rounds):
            self._runs += next(self._planned)
        self.rounds = rounds
        self._runs = [msgspec.structs.replace(one, run=self.run) for one in self._runs]
        self._write_plan()
        left = self.left()
        cells, missing = sum(len(one.cells()) for one in self._runs), sum(len(cells) for _, cells in left)
        done = f", {cells - missing} of them done already (--fresh measures all again)" if missing < cells else ""
        self._say(
            f"sweep {self.folder.name}: {plural(len(left), 'grid run')}, {plural(cells, 'cell')} in "
            f"{plural(rounds, 'round')}{done}, {about(self.params, left, self.ledger.rows())}, to {self.folder}"
        )

    def _write_plan(self) -> None:
        write_plan(
            self.folder, Plan(self.run, self.rounds, self.keys, self._file, self._spent_s, str(self.params.selection))
        )

    def _measure_left(self) -> None:
        left = [one for one, _ in self.left()]
        with self._progress(len(left)):
            at_once = 1 if self._in_turn else self.deployment.at_once(left)
            run_plan(left, self._execute_timed, self._fail, at_once, self._interrupt)

    def _execute_timed(self, one: GridParams) -> None:
        begun = monotonic()
        try:
            self._execute(one)
        finally:
            with self._lock:
                self._spent_s += monotonic() - begun
                self._write_plan()

    def _fail(self, one: GridParams, error: Exception) -> None:
        """Report a run that failed, and append a failed row for every cell that it left without one."""
        self._say(f"FAILED {run_name(one)}: {error}")
        context = self._context(one)
        there = {(row.key, row.round) for row in self.ledger.rows() if row.run == one.run}
        for row in [context.failed(cell, error) for cell in one.cells()]:
            if (row.key, row.round) not in there:
                self.ledger.append(row, [])


def run_plan(
    runs: Sequence[GridParams],
    execute: Execute,
    report_failure: Callable[[GridParams, Exception], None],
    at_once: int = 1,
    interrupt: Callable[[], None] = lambda: None,
) -> None:
    """Execute the runs in order, `at_once` of them in parallel; report one that fails, and continue with the rest."""

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


def require_models(params: SweepParams, say: Say = print) -> None:
    """Train the models that are to be measured and are missing, before anything is measured."""
    parts = [part for part in params.parts() if facts_of(part.engine).needs_model]
    for place, part in {model_folder(part): part for part in parts}.items():
        say(f"model: {place}")
        require_model(part)


def run_rounds(params: SweepParams, sweep: str, outputs: str = "", say: Say = print) -> Path:
    """Measure a whole sweep in this process, always anew, and return its folder; for notebooks.

    `outputs` is the folder in which the sweep's is made, empty for the project's. Raises `ConfigError` for a model or a
    cluster that is not there; a run that fails is reported, and its cells are rows with the reason.
    """
    folder = check_output(at_home(outputs) if outputs else project_root() / "outputs") / sweep

    def execute(one: GridParams) -> None:
        rows = run_grid(one, lambda _line: None)
        failed = sum(not row.answered for row in rows)
        words = f", {failed} of them failed" if failed else ""
        say(
            f"round {one.round}, {one.mode}, {one.engine}, {plural(one.server_threads, 'server thread')}: "
            f"{plural(len(rows), 'cell')}{words}"
        )

    require_models(params, lambda _line: None)
    deployment = deployment_of(next(planned_rounds(params, sweep, "", folder.parent))[0])
    Sweep(params, folder, execute, deployment, say=say, fresh=True, in_turn=True).measure()
    return folder
