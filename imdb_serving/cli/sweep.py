"""`imdb-serving sweep`: notebooks run through papermill, more rounds where noise asks for them, and the report."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from imdb_serving.cli import group
from imdb_serving.cli.overhead import measure_ladder, measure_recommended
from imdb_serving.cli.reading import figures_option, select_option, write_report, zone_option
from imdb_serving.config import check_output, default_sweep, project_root
from imdb_serving.engines.registry import EngineSpec, facts_of
from imdb_serving.packages import require_extras

if TYPE_CHECKING:
    from tqdm import tqdm

    from imdb_serving.cell import Row
    from imdb_serving.cluster.deployment import ClusterDeployment
    from imdb_serving.experiment.sweep import Sweep
    from imdb_serving.measurement.deployment import Deployment
    from imdb_serving.measurement.parameters import GridParams, SweepParams
    from imdb_serving.report.kernels import Kernels


INTERRUPTED = 130


class SweepOptions(NamedTuple):
    """How a sweep is run: its folder, whether to measure all again, how many rounds, more grids, or a dry run.

    `zone` is the shortfall from the best that is indifferent, in per cent, `select` what a cell is chosen by. With
    `figures` they are written as files. Measuring ends after `seconds`; then, and when it is interrupted, the verdict
    is on what was measured so far.
    """

    outputs: Path | None = None
    fresh: bool = False
    rounds: int | None = None
    dry_run: bool = False
    cluster: str = ""
    also: tuple[str, ...] = ()
    zone: float = 5.0
    select: str = ""
    search: bool = False
    figures: bool = False
    seconds: float | None = None


def run_sweep(path: Path, options: SweepOptions) -> int:
    """Run a whole sweep; returns the exit code: 0, 1 when a cell failed, or 130 when it was interrupted."""
    import logging
    import shlex

    import msgspec

    from imdb_serving.experiment import sweep
    from imdb_serving.measurement.parameters import load_sweep
    from imdb_serving.report.kernels import Kernels
    from imdb_serving.report.notebooks import interrupt_kernels

    params = load_sweep(path, options.cluster, options.also)
    if options.rounds:
        params = msgspec.structs.replace(params, rounds=options.rounds)
    if options.search:
        params = msgspec.structs.replace(params, search=True)
    if options.select:
        params = msgspec.structs.replace(params, select=options.select)
    outputs = check_output(options.outputs or project_root() / "outputs").resolve()
    folder = check_output(outputs / path.stem)
    if options.dry_run:
        return _tell(params, folder)
    sweep.require_models(params, _say)
    with sweep.alone(folder), Kernels() as kernels:
        notebooks = _Notebooks(folder, kernels)
        made = sweep.Sweep(
            params,
            folder,
            notebooks.execute,
            _deployment(params, folder),
            say=notebooks.say,
            file=str(path),
            fresh=options.fresh,
            progress=notebooks.progress,
            interrupt=interrupt_kernels,
            zone=options.zone / 100,
        )
        # An interrupted notebook leaves tasks that asyncio would report in pages; the notebook itself keeps its error.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        failed = 0
        try:
            with _time_limit(options.seconds):
                made.measure()
            if _has_ladder(params):
                failed = int(not measure_ladder(params, folder, made.run, kernels))
                measure_recommended(params, folder, made.run, options.zone / 100)
        except KeyboardInterrupt as error:
            if options.seconds is None:
                _say("interrupted; the same command goes on where this one stopped, and")
                _say(f"`imdb-serving report {shlex.quote(str(folder))}` draws the cells recorded so far")
                return INTERRUPTED
            why = "the time is up" if isinstance(error, _TimeIsUp) else "interrupted"
            place = f" --outputs {shlex.quote(str(options.outputs))}" if options.outputs else ""
            _say(f"{why}; `imdb-serving sweep {shlex.quote(str(path))}{place}` goes on where this stopped")
            if not made.run_rows():
                _say("no cell was measured yet, so there is no verdict")
                return INTERRUPTED
            failed = 0 if isinstance(error, _TimeIsUp) else INTERRUPTED
            logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it tells of the kernel that was ended
        return max(_conclude(folder, made, options, kernels), failed)


class _TimeIsUp(KeyboardInterrupt):
    """What ends a measurement whose time is up, as Ctrl-C does."""


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Interrupt the block after so many seconds, with `_TimeIsUp`."""
    if seconds is None:
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _say(words: str) -> None:
    print(words, file=sys.stderr)


def _has_ladder(params: SweepParams) -> bool:
    from imdb_serving.measurement.parameters.checks import LOCAL

    if params.ladder_rounds and params.cluster != LOCAL:
        _say("the overhead ladder is left out: all its servers run side by side on one machine")
    return bool(params.ladder_rounds) and params.cluster == LOCAL


def _deployment(params: SweepParams, folder: Path) -> Deployment:
    """Return where the sweep is measured, with its engines tuned there, which cells and cards depend on."""
    from imdb_serving.engines import tuning
    from imdb_serving.measurement.deployment import THIS_MACHINE
    from imdb_serving.measurement.parameters import model_folder
    from imdb_serving.measurement.parameters.checks import LOCAL
    from imdb_serving.model.bundle import open_bundle

    if params.cluster != LOCAL:
        return survey_nodes(params, folder)
    for part in params.parts():
        if facts_of(part.engine).needs_model:
            for math in part.math:
                tuning.ensure(EngineSpec(part.engine, math), open_bundle(model_folder(part)), probed=True)
    return THIS_MACHINE


class _Notebooks:
    """Executes grid runs as notebooks, and shows how far they are: a bar in a terminal, else a line for each run."""

    def __init__(self, folder: Path, kernels: Kernels) -> None:
        self._folder, self._kernels = folder, kernels
        self._bar: tqdm[Any] | None = None
        self._numbers = itertools.count(1)

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Show the progress of `total` runs for the block."""
        from tqdm import tqdm

        self._numbers = itertools.count(1)
        with tqdm(total=total, desc=f"sweep {self._folder.name}", unit="run", disable=None) as self._bar:
            yield
        self._bar = None

    def execute(self, params: GridParams) -> None:
        """Execute the notebook of one run."""
        from imdb_serving.experiment.grid import run_words
        from imdb_serving.experiment.plan import run_name
        from imdb_serving.report.notebooks import execute_grid

        bar = self._bar
        assert bar is not None  # noqa: S101 - `progress` has been entered
        words = f"round {params.round}, {run_words(params)}"
        bar.set_postfix_str(words)
        begun = monotonic()
        try:
            execute_grid(params, self._folder / "notebooks" / f"{run_name(params)}.ipynb", self._kernels)
        finally:
            bar.update()
            if bar.disable:
                _say(f"run {next(self._numbers)} of {bar.total}: {words}, {monotonic() - begun:.0f} s")

    def say(self, words: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._bar is None:
            _say(words)
        else:
            self._bar.write(words, file=sys.stderr)


def _tell(params: SweepParams, folder: Path) -> int:
    """Print how many cells a sweep has, and about how long it takes; start nothing, write nothing."""
    import msgspec

    from imdb_serving.cell import plural
    from imdb_serving.experiment.estimate import about, estimate_seconds
    from imdb_serving.experiment.plan import plan
    from imdb_serving.measurement.ledger import Ledger

    runs = [(one, one.cells()) for one in plan(params, folder.name, "dry", folder.parent)]
    cells = sum(len(cells) for _, cells in runs)
    print(f"sweep {folder.name}: {cells} cells ({cells // params.rounds} in each of {params.rounds} rounds)")
    rows = Ledger(folder).rows()
    measuring, rest = estimate_seconds(runs, rows)
    share = f"{measuring / (measuring + rest):.0%} of the grid's time in timed windows"
    print(f"{plural(len(runs), 'grid run')}, {about(params, runs, rows)}, without environment and model; {share}")
    if params.search:
        print("a search measures about a third of that, and ends when the answer is shown")
    elif params.extra_rounds:
        more = [run for run in runs if run[0].round == 1] * params.extra_rounds
        time = about(msgspec.structs.replace(params, ladder_rounds=0), more, rows)
        print(f"where noise asks for {plural(params.extra_rounds, 'more round')}: {time} more")
    return 0


def _conclude(folder: Path, made: Sweep, options: SweepOptions, kernels: Kernels) -> int:
    """Name the cells that failed, write the report, and return the exit code."""
    from imdb_serving.experiment.grid import describe

    for line in made.ledger.read().skipped:
        _say(f"skipped {line}")
    rows = made.run_rows()
    bad = [row for row in rows if _is_bad(row)]
    for row in bad:
        _say(f"round {row.round}, {describe(row)}")
    if bad:
        _say(f"{len(bad)} of {len(rows)} cells failed; notebooks in {folder / 'notebooks'} show more")
    write_report(folder, options.zone / 100, options.select, kernels, figures=options.figures)
    return 1 if bad else 0


def _is_bad(row: Row) -> bool:
    """Tell of a cell of which requests failed, or answers are wrong: no noise of a machine does that."""
    from imdb_serving.cell import FAILED

    return row.status == FAILED or any(finding.gate in {"errors", "answers"} for finding in row.findings)


def survey_nodes(params: SweepParams, folder: Path) -> ClusterDeployment:
    """Join the cluster, survey its nodes, print which are left out, and compute the bare engines' answers.

    Raises `ConfigError` without Ray, without a cluster, or without enough nodes.
    """
    from imdb_serving.cluster.deployment import ClusterDeployment
    from imdb_serving.experiment.grid import inputs_of
    from imdb_serving.experiment.plan import plan
    from imdb_serving.measurement.models import model_id
    from imdb_serving.measurement.parameters import model_folder

    deployment = ClusterDeployment(params.cluster)
    folder.mkdir(parents=True, exist_ok=True)
    engines: dict[str, list[EngineSpec]] = {}
    models: dict[str, Path | None] = {}
    for part in params.parts():
        model = model_folder(part) if facts_of(part.engine).needs_model else None
        engines.setdefault(model_id(model), []).extend(EngineSpec(part.engine, math) for math in part.math)
        models[model_id(model)] = model
    _say(f"cluster {params.cluster}: surveying the nodes, which takes a minute the first time")
    deployment.look(folder, engines, models)
    runs = plan(params, folder.name, "look", folder.parent)
    most = max(runs, key=lambda run: sum(run.nodes))
    for line in deployment.unlike(folder, next(iter(models)), most):
        _say(line)
    for run in {(run.server.engine, run.server.model, run.pipeline): run for run in runs}.values():
        inputs_of(run, folder)  # or the first notebooks would compute them, beside a node that measures
    return deployment


@group.command()
@click.argument("params", type=click.Path(path_type=Path), required=False)
@click.option("--outputs", type=click.Path(file_okay=False, path_type=Path), help="Default: the project's outputs.")
@click.option(
    "--rounds", type=click.IntRange(min=1, max=1000), help="Instead of the file's; more than last time adds rounds."
)
@click.option("--fresh", is_flag=True, help="Measure all cells again, also those that are done.")
@click.option("--dry-run", is_flag=True, help="Print how many cells there are and about how long they take.")
@click.option("--also", multiple=True, metavar="YAML", help="One more entry of the file's `also`; may be repeated.")
@click.option("--search", is_flag=True, help="Measure only what could still be the answer, about a third of the grid.")
@zone_option
@select_option
@figures_option
@click.option("--cluster", default="", help="Instead of the file's: local, auto, ray://HOST:PORT or HOST:PORT.")
def sweep(params: Path | None, **options: Any) -> None:
    """Measure every cell of a parameter file through notebooks/grid.ipynb, then write the report.

    Without PARAMS it is params/default.yaml, which is written where there is none; the model is trained where there is
    none. All is below the working folder, or below the project's that this is in.

    What is done already, of the same cell, model, code and machine, is not measured again: an interrupted sweep goes on
    where it stopped.

    \b
    Example:
      imdb-serving sweep
      imdb-serving sweep params/default.yaml --rounds 5
      imdb-serving sweep params/default.yaml --search
      imdb-serving sweep params/default.yaml --also '{mode: rpc, server_threads: [8]}'
      imdb-serving sweep params/default.yaml --cluster auto
    """
    if params is None:
        require_extras("folded", "paddle", "report")
        params = default_sweep()
        _say(f"parameters: {params}")
    sys.exit(run_sweep(params, SweepOptions(**options)))
