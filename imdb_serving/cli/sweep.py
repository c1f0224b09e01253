"""`imdb-serving sweep`: notebooks run through papermill, more rounds where noise asks for them, and the report."""

from __future__ import annotations

import functools
import itertools
import logging
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from imdb_serving.cell import Cell, plural
from imdb_serving.cli import group
from imdb_serving.cli.ladder import measure_ladder
from imdb_serving.cli.reading import write_report
from imdb_serving.config import check_output, project_root
from imdb_serving.engines.registry import EngineSpec, facts_of

if TYPE_CHECKING:
    from tqdm import tqdm

    from imdb_serving.cluster.deployment import ClusterDeployment
    from imdb_serving.measurement.deployment import Deployment
    from imdb_serving.measurement.ledger import Ledger
    from imdb_serving.measurement.parameters import GridParams, SweepParams
    from imdb_serving.rows import Row


INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """How a sweep is run: where to, whether all is measured anew, how many rounds, or only told what would be done."""

    outputs: Path | None = None
    fresh: bool = False
    rounds: int | None = None
    dry_run: bool = False
    cluster: str = ""


def run_sweep(path: Path, options: SweepOptions) -> int:
    """Run a whole sweep; returns the exit code: 0, or 1 when a cell failed."""
    from imdb_serving.experiment import sweep
    from imdb_serving.measurement.ledger import Ledger
    from imdb_serving.measurement.parameters import load_sweep
    from imdb_serving.report.notebooks import notebook_path

    params = load_sweep(path, options.cluster)
    if options.rounds:
        params = msgspec.structs.replace(params, rounds=options.rounds)
    notebook_path("grid.ipynb")  # outside the project there is nothing to run
    outputs = check_output(options.outputs or project_root() / "outputs").resolve()
    folder = check_output(outputs / path.stem)
    if options.dry_run:
        return _tell(params, folder)
    _make_models(params)
    with sweep.alone(folder):
        ledger = Ledger(folder)
        asked = _Asked(params, path, folder, ledger, _place(params, folder))
        made = _planned(asked, fresh=options.fresh)
        # An interrupted notebook leaves tasks that asyncio would tell of in pages; the notebook itself keeps its error.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        try:
            _measure(asked, made.left)
            _settle(asked, made)
            ladder_failed = _has_ladder(params) and not measure_ladder(params, folder, made.run)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on where this one stopped, and", file=sys.stderr)
            print(f"`imdb-serving report {shlex.quote(str(folder))}` draws the cells recorded so far", file=sys.stderr)
            return INTERRUPTED
        return max(_conclude(folder, ledger, made.run), int(ladder_failed))


def _make_models(params: SweepParams) -> None:
    """Train what is to be measured before anything is."""
    from imdb_serving.measurement.inputs import require_model
    from imdb_serving.measurement.parameters import model_folder

    for place, part in {model_folder(part): part for part in _with_models(params)}.items():
        print(f"model: {place}", file=sys.stderr)
        require_model(part)


def _with_models(params: SweepParams) -> list[SweepParams]:
    return [part for part in params.parts() if facts_of(part.engine).needs_model]


def _has_ladder(params: SweepParams) -> bool:
    from imdb_serving.measurement.parameters.checks import LOCAL

    if params.ladder_rounds and params.cluster != LOCAL:
        print("the overhead ladder is left out: all its servers run side by side on one machine", file=sys.stderr)
    return bool(params.ladder_rounds) and params.cluster == LOCAL


def _place(params: SweepParams, folder: Path) -> Deployment:
    """Return where the sweep is measured, with its engines tuned there: before anything is, and for the cards."""
    from imdb_serving.engines import tuning
    from imdb_serving.measurement.deployment import THIS_MACHINE
    from imdb_serving.measurement.parameters import model_folder
    from imdb_serving.measurement.parameters.checks import LOCAL
    from imdb_serving.model.bundle import open_bundle

    if params.cluster == LOCAL:
        for part in _with_models(params):
            tuning.ensure(EngineSpec(part.engine, part.math_threads), open_bundle(model_folder(part)), probed=True)
        return THIS_MACHINE
    from imdb_serving.cli.sweep import look_around

    return look_around(params, folder)


class _Asked(NamedTuple):
    """What a sweep is asked to do, the file that says so, its folder and ledger, and where it is measured."""

    params: SweepParams
    path: Path
    folder: Path
    ledger: Ledger
    deployment: Deployment


class _Planned(NamedTuple):
    """A sweep's run, how many rounds of it are planned so far, what is left of them, and the keys of its cells."""

    run: str
    rounds: int
    left: list[GridParams]
    keys: dict[str, Cell]


def _planned(asked: _Asked, *, fresh: bool) -> _Planned:
    """Plan a sweep or the rest of one, with every round that it had begun, and write the plan down."""
    from imdb_serving.experiment import sweep
    from imdb_serving.measurement.folders import new_run

    params, _, folder, ledger, deployment = asked
    first = sweep.plan(params, folder.name, new_run(), folder.parent)
    keys = sweep.keys_of(first, ledger, deployment)
    run = (None if fresh else sweep.resumed_run(ledger, keys)) or first[0].run
    return _with_rounds(asked, max(params.rounds, sweep.rounds_begun(ledger, run)), run, keys)


def _with_rounds(asked: _Asked, rounds: int, run: str, keys: dict[str, Cell]) -> _Planned:
    """Plan so many rounds, write the plan down, and say what is left of it."""
    from imdb_serving.experiment import sweep

    params, path, folder, ledger, _ = asked
    whole = msgspec.structs.replace(params, rounds=rounds)
    runs = sweep.plan(whole, folder.name, run, folder.parent)
    left = sweep.pending(runs, ledger, keys)
    sweep.write_plan(folder, sweep.Plan(run, rounds, keys, str(path)))
    cells, missing = (sum(len(one.cells()) for one in some) for some in (runs, left))
    done = f", {cells - missing} of them done already (--fresh measures all again)" if missing < cells else ""
    print(
        f"sweep {folder.name}: {plural(len(left), 'notebook run')}, {plural(cells, 'cell')} in "
        f"{plural(rounds, 'round')}{done}, "
        f"{_about(params, left, ledger)}, to {folder}",
        file=sys.stderr,
    )
    return _Planned(run, rounds, left, keys)


def _settle(asked: _Asked, made: _Planned) -> None:
    """Measure another round of all cells while noise has left some unsettled, up to `extra_rounds`."""
    from imdb_serving.experiment import sweep

    params, ledger = asked.params, asked.ledger
    for rounds in range(made.rounds + 1, params.rounds + params.extra_rounds + 1):
        cells = sweep.unsettled_cells(ledger, made.run, made.keys)
        if not cells:
            return
        key, reasons = next(iter(cells.items()))
        why, _, _ = reasons.partition("; ")
        label = made.keys[str(key)].label(["mode", "engine", "server_threads", "client_threads"])
        print(
            f"{plural(len(cells), 'cell')} unsettled ({label}: {why}): another round of all cells, "
            f"{rounds - params.rounds} of at most {params.extra_rounds}",
            file=sys.stderr,
        )
        _measure(asked, _with_rounds(asked, rounds, made.run, made.keys).left)


def _about(params: SweepParams, left: list[GridParams], ledger: Ledger) -> str:
    from imdb_serving.experiment.sweep import estimate_seconds

    minutes = estimate_seconds(params, left, ledger.rows()) / 60
    return "about a minute" if minutes < 1.5 else f"about {minutes:.0f} minutes"


def _tell(params: SweepParams, folder: Path) -> int:
    """Print how many cells a sweep has, and about how long it takes; start nothing, write nothing."""
    from imdb_serving.experiment import sweep
    from imdb_serving.measurement.ledger import Ledger

    runs = sweep.plan(params, folder.name, "dry", folder.parent)
    cells = sum(len(one.cells()) for one in runs)
    print(f"sweep {folder.name}: {cells} cells ({cells // params.rounds} in each of {params.rounds} rounds)")
    ledger = Ledger(folder)
    print(f"{len(runs)} notebook runs, {_about(params, runs, ledger)}, without environment and model")
    if params.extra_rounds:
        more = [one for one in runs if one.round == 1] * params.extra_rounds
        time = _about(msgspec.structs.replace(params, ladder_rounds=0), more, ledger)
        print(f"where noise asks for {plural(params.extra_rounds, 'more round')}: {time} more")
    return 0


def _measure(asked: _Asked, left: list[GridParams]) -> None:
    from tqdm import tqdm

    from imdb_serving.experiment import sweep
    from imdb_serving.report.notebooks import interrupt_kernels

    folder, ledger, deployment = asked.folder, asked.ledger, asked.deployment
    # No bar where standard error is no terminal: there each run is told in a line.
    with tqdm(total=len(left), desc=f"sweep {folder.name}", unit="run", disable=None) as bar:

        def report_failure(one: GridParams, error: Exception) -> None:
            bar.write(f"FAILED {_name(one)}: {error}", file=sys.stderr)
            sweep.record_failure(one, error, ledger, deployment)

        execute = functools.partial(_execute, folder, bar, itertools.count(1))
        sweep.run_plan(left, execute, report_failure, deployment.at_once(left), interrupt_kernels)


def _conclude(folder: Path, ledger: Ledger, run: str) -> int:
    """Name the cells that failed, write the report, and return the exit code."""
    from imdb_serving.experiment.grid import describe
    from imdb_serving.measurement.ledger import newest

    contents = ledger.read()
    for line in contents.skipped:
        print(f"skipped {line}", file=sys.stderr)
    rows = [row for row in newest(contents.rows) if row.run == run]
    bad = [row for row in rows if _is_bad(row)]
    for row in bad:
        print(f"round {row.round}, {describe(row)}", file=sys.stderr)
    if bad:
        print(f"{len(bad)} of {len(rows)} cells failed; notebooks in {folder / 'notebooks'} show more", file=sys.stderr)
    write_report(folder)
    return 1 if bad else 0


def _is_bad(row: Row) -> bool:
    """Tell of a cell of which requests failed, or answers are wrong: no noise of a machine does that."""
    from imdb_serving.rows import FAILED

    return row.status == FAILED or any(finding.gate in {"errors", "answers"} for finding in row.findings)


def _name(params: GridParams) -> str:
    return f"grid-r{params.round}-{params.cells()[0].without('client_threads', 'samples').slug}"


def _execute(folder: Path, bar: tqdm[Any], numbers: Iterator[int], params: GridParams) -> None:
    from imdb_serving.report.notebooks import execute_grid

    words = f"round {params.round}, {params.mode}, {params.engine}, {plural(params.server_threads, 'server thread')}"
    bar.set_postfix_str(words)
    begun = monotonic()
    try:
        execute_grid(params, folder / "notebooks" / f"{_name(params)}.ipynb")
    finally:
        bar.update()
        if bar.disable:
            print(f"run {next(numbers)} of {bar.total}: {words}, {monotonic() - begun:.0f} s", file=sys.stderr)


def look_around(params: SweepParams, folder: Path) -> ClusterDeployment:
    """Join the cluster, look at its nodes, say which are left out, and have the bare engines' answers.

    Raises `ConfigError` without Ray, without a cluster, or without enough nodes.
    """
    from imdb_serving.cluster.deployment import ClusterDeployment
    from imdb_serving.experiment.grid import inputs
    from imdb_serving.experiment.sweep import plan
    from imdb_serving.measurement.deployment import engine_of, model_of
    from imdb_serving.measurement.inputs import model_id
    from imdb_serving.measurement.parameters import model_folder

    deployment = ClusterDeployment(params.cluster)
    folder.mkdir(parents=True, exist_ok=True)
    engines: dict[str, list[EngineSpec]] = {}
    models: dict[str, Path | None] = {}
    for part in params.parts():
        model = model_folder(part) if facts_of(part.engine).needs_model else None
        engines.setdefault(model_id(model), []).append(EngineSpec(part.engine, part.math_threads))
        models[model_id(model)] = model
    print(f"cluster {params.cluster}: looking at the nodes, which takes a minute the first time", file=sys.stderr)
    deployment.look(folder, engines, models)
    runs = plan(params, folder.name, "look", folder.parent)
    most = max(runs, key=lambda run: sum(run.nodes))
    for line in deployment.unlike(folder, next(iter(models)), most):
        print(line, file=sys.stderr)
    for run in {(engine_of(run), model_of(run), run.pipeline): run for run in runs}.values():
        inputs(run, folder)  # or the first notebooks would compute them, beside a node that measures
    return deployment


@group.command()
@click.argument("params", type=click.Path(path_type=Path))
@click.option("--outputs", type=click.Path(file_okay=False, path_type=Path), help="Default: the project's outputs.")
@click.option(
    "--rounds", type=click.IntRange(min=1, max=1000), help="Instead of the file's; more than last time adds rounds."
)
@click.option("--fresh", is_flag=True, help="Measure all cells again, also those that are done.")
@click.option("--dry-run", is_flag=True, help="Print how many cells there are and about how long they take.")
@click.option("--cluster", default="", help="Instead of the file's: local, auto, ray://HOST:PORT or HOST:PORT.")
def sweep(params: Path, **options: Any) -> None:
    """Measure every cell of a parameter file through notebooks/grid.ipynb, then write the report.

    What is done already, of the same cell, model, code and machine, is not measured again: an interrupted sweep goes on
    where it stopped.

    \b
    Example:
      imdb-serving sweep params/default.yaml
      imdb-serving sweep params/default.yaml --rounds 5
      imdb-serving sweep params/default.yaml --cluster auto
    """
    sys.exit(run_sweep(params, SweepOptions(**options)))
