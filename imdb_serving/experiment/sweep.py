"""A sweep: which of its planned grid runs are done already, and running the rest.

How one run is executed (papermill, or in this process) is given by the caller.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

import msgspec

from imdb_serving.analysis.cells import frame
from imdb_serving.analysis.choice import ZONE
from imdb_serving.analysis.noise import unsettled
from imdb_serving.analysis.search import LOOKS, Known, Search, Step
from imdb_serving.analysis.sequential import FIRST_LOOK
from imdb_serving.cell import AA_REPEAT, GRID, Cell, Row, plural, varying
from imdb_serving.config import at_home, check_output, project_root
from imdb_serving.engines.registry import facts_of
from imdb_serving.errors import DataError
from imdb_serving.experiment.estimate import about
from imdb_serving.experiment.grid import deployment_of, run_grid, run_words, unmeasured
from imdb_serving.experiment.plan import (
    Plan,
    may_be_chosen,
    planned_rounds,
    read_plan,
    run_name,
    searched_round,
    write_plan,
)
from imdb_serving.measurement.deployment import MEASURING, Deployment
from imdb_serving.measurement.environment import most_cores
from imdb_serving.measurement.ledger import Ledger, exclusive, new_run, newest
from imdb_serving.measurement.measure import Round
from imdb_serving.measurement.models import require_model
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
        zone: float = ZONE,
    ) -> None:
        """Plan the first rounds: of the newest run that has any of the cells, or of a new run when `fresh`.

        A search does not go on with the run of a whole grid, nor a grid with that of a search. A search plans each
        round when it has seen the ones before; `zone` is what it takes for indifferent.
        `progress` is called with a number of runs, and entered while these are executed. Runs are executed `in_turn`,
        or as many at once as the deployment has places for.
        """
        self.params, self.folder, self.deployment = params, folder, deployment
        self.ledger = Ledger(folder)
        self._execute, self._interrupt, self._progress, self._say, self._file = execute, interrupt, progress, say, file
        self._planned = planned_rounds(params, folder.name, new_run(), folder.parent)
        self._runs = next(self._planned)
        self._in_turn, self._zone = in_turn, zone
        self._lock, self._spent_s = threading.Lock(), 0.0
        self._contexts: dict[tuple[object, ...], Round] = {}
        self._searched: list[list[str]] = []
        self.keys = {self._context(one).row(cell).key: cell for one in self._runs for cell in one.cells()}
        before = None
        with suppress(DataError):  # a damaged plan is written anew
            before = read_plan(folder)
        searched = bool(before and before.looks)
        self.run = (None if fresh or (before and searched != params.search) else self._resumed()) or self._runs[0].run
        self.rounds = 1
        if before and before.run == self.run:
            self._spent_s, self._searched = before.spent_s, before.searched
        if not params.search:
            self._plan_to(max(params.rounds, self._rounds_begun()))

    def measure(self) -> None:
        """Measure what is left, and more whole rounds while noise leaves cells unsettled, up to `extra_rounds`.

        A search measures round after round what could still be the answer, until it is shown or the rounds are used up.
        """
        if self.params.search:
            self._search()
            return
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

    def _search(self) -> None:
        every = [key for key, cell in self.keys.items() if cell.series == GRID]
        may_be = may_be_chosen([self.keys[key] for key in every])
        grid = {key: self.keys[key] for key, able in zip(every, may_be, strict=True) if able}
        others = self.keys.keys() - grid.keys()
        cards = [card for context in self._contexts.values() for card in context.cards]
        cores = most_cores(self.folder, cards)
        search = Search(grid, self.params.rounds, len(self.keys), self._zone, self.params.selection, cores)
        whole, self._runs = self._runs, []
        for number in itertools.count(1):
            rows = [row for row in self.run_rows() if row.cell.series in (GRID, AA_REPEAT) and row.round < number]
            step = Step(self._searched[number - 1]) if number <= len(self._searched) else search.next(frame(rows))
            if not step.keys:
                measured = len({row.key for row in rows} & grid.keys())
                end = "the answer is shown" if step.shown else "its rounds are used up"
                self._say(f"search: {end}; {measured} of {plural(len(grid), 'cell')}, {len(rows)} measurements")
                return
            if number > len(self._searched):
                self._searched.append(step.keys)
            self.rounds = number
            self._runs += self._round_of(whole, set(step.keys) | (others if number <= FIRST_LOOK else set()))
            self._write_plan()
            self._say(
                f"search: round {number} of at most {search.looks}, {plural(len(step.keys), 'cell')}"
                f"{self._known(step.known)}"
            )
            self._measure_left()
            whole = next(self._planned)

    def _known(self, known: Known | None) -> str:
        """Return in words what a search can say so far, behind what it measures next."""
        if known is None:
            return ""
        cells = list(self.keys.values())
        told = [name for name in varying(cells) if name != "series"]
        words = f"; so far {self.keys[known.key].label(told)}: {known.throughput:,.0f} samples/s"
        others = f", and {plural(known.contenders, 'other cell')} may be the best" if known.contenders else ""
        return words + others

    def _round_of(self, whole: Sequence[GridParams], keys: Set[str]) -> list[GridParams]:
        """Return the grid runs of a round that hold these cells."""

        def clients(run: GridParams) -> set[int]:
            return {cell.client_threads for cell in run.cells() if self._context(run).row(cell).key in keys}

        runs = searched_round(whole, clients)
        return [msgspec.structs.replace(run, run=self.run) for run in runs]

    def left(self) -> list[tuple[GridParams, list[Cell]]]:
        """Return the runs of which cells are left to measure, with those cells."""
        found = [(one, unmeasured(one, self._context(one), self.ledger)) for one in self._runs]
        return [(one, cells) for one, cells in found if cells]

    def run_rows(self) -> list[Row]:
        """Return the rows of this run, the ladder's as well, each cell and round once."""
        return [row for row in newest(self.ledger.rows()) if row.run == self.run]

    def _context(self, one: GridParams) -> Round:
        """Return what a run's rows have in common; it is found once for each engine, model and number of nodes."""
        place = (one.engine, str(model_folder(one)), one.nodes, one.fingerprint)
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
        made = Plan(
            run=self.run,
            rounds=self.rounds,
            keys=self.keys,
            file=self._file,
            spent_s=self._spent_s,
            select=str(self.params.selection),
            looks=LOOKS * self.params.rounds if self.params.search else 0,
            searched=self._searched,
        )
        write_plan(self.folder, made)

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
        say(f"round {one.round}, {run_words(one)}: {plural(len(rows), 'cell')}{words}")

    require_models(params, lambda _line: None)
    deployment = deployment_of(next(planned_rounds(params, sweep, "", folder.parent))[0])
    Sweep(params, folder, execute, deployment, say=say, fresh=True, in_turn=True).measure()
    return folder
