"""`imdb-serving sweep`: notebooks run through papermill, another round where noise asks for one, and the report."""

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
from typing import Any, NamedTuple

import msgspec
from tqdm import tqdm

from imdb_serving.bench.analysis.estimate import estimate_seconds
from imdb_serving.bench.cell import Cell, plural
from imdb_serving.bench.parameters import GridParams, SweepParams, load_sweep, model_folder
from imdb_serving.bench.parameters.checks import LOCAL
from imdb_serving.bench.record.folders import new_run
from imdb_serving.bench.record.ledger import Ledger, newest
from imdb_serving.bench.record.rows import FAILED, Row
from imdb_serving.bench.runs import sweep
from imdb_serving.bench.runs.grid import describe
from imdb_serving.bench.runs.models import require_model
from imdb_serving.bench.runs.site import HERE, Site
from imdb_serving.commands.ladder import measure_ladder
from imdb_serving.commands.report import write_report
from imdb_serving.config import check_output, project_root
from imdb_serving.engines import tuning
from imdb_serving.engines.registry import EngineSpec, facts_of
from imdb_serving.model.bundle import open_bundle
from imdb_serving.report.notebooks import execute_grid, interrupt_kernels, notebook_path

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
    for place, part in {model_folder(part): part for part in _with_models(params)}.items():
        print(f"model: {place}", file=sys.stderr)
        require_model(part)


def _with_models(params: SweepParams) -> list[SweepParams]:
    return [part for part in params.parts() if facts_of(part.engine).needs_model]


def _has_ladder(params: SweepParams) -> bool:
    if params.ladder_rounds and params.cluster != LOCAL:
        print("the overhead ladder is left out: all its servers run side by side on one machine", file=sys.stderr)
    return bool(params.ladder_rounds) and params.cluster == LOCAL


def _place(params: SweepParams, folder: Path) -> Site:
    """Return where the sweep is measured, with its engines tuned there: before anything is, and for the cards."""
    if params.cluster == LOCAL:
        for part in _with_models(params):
            tuning.ensure(EngineSpec(part.engine, part.math_threads), open_bundle(model_folder(part)), probed=True)
        return HERE
    from imdb_serving.commands.cluster import look_around

    return look_around(params, folder)


class _Asked(NamedTuple):
    """What a sweep is asked to do, the file that says so, its folder and ledger, and where it is measured."""

    params: SweepParams
    path: Path
    folder: Path
    ledger: Ledger
    site: Site


class _Planned(NamedTuple):
    """A sweep's run, how many rounds of it are planned so far, what is left of them, and the keys of its cells."""

    run: str
    rounds: int
    left: list[GridParams]
    keys: dict[str, Cell]


def _planned(asked: _Asked, *, fresh: bool) -> _Planned:
    """Plan a sweep or the rest of one, with every round that it had begun, and write the plan down."""
    params, _, folder, ledger, site = asked
    first = sweep.plan(params, folder.name, new_run(), folder.parent)
    keys = sweep.keys_of(first, ledger, site)
    run = (None if fresh else sweep.resumed_run(ledger, keys)) or first[0].run
    return _with_rounds(asked, max(params.rounds, sweep.rounds_begun(ledger, run)), run, keys)


def _with_rounds(asked: _Asked, rounds: int, run: str, keys: dict[str, Cell]) -> _Planned:
    """Plan so many rounds, write the plan down, and say what is left of it."""
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
    minutes = estimate_seconds(params, left, ledger.rows()) / 60
    return "about a minute" if minutes < 1.5 else f"about {minutes:.0f} minutes"


def _tell(params: SweepParams, folder: Path) -> int:
    """Print how many cells a sweep has, and about how long it takes; start nothing, write nothing."""
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
    folder, ledger, site = asked.folder, asked.ledger, asked.site
    # No bar where standard error is no terminal: there each run is told in a line.
    with tqdm(total=len(left), desc=f"sweep {folder.name}", unit="run", disable=None) as bar:

        def report_failure(one: GridParams, error: Exception) -> None:
            bar.write(f"FAILED {_name(one)}: {error}", file=sys.stderr)
            sweep.record_failure(one, error, ledger, site)

        execute = functools.partial(_execute, folder, bar, itertools.count(1))
        sweep.run_plan(left, execute, report_failure, site.at_once(left), interrupt_kernels)


def _conclude(folder: Path, ledger: Ledger, run: str) -> int:
    """Name the cells that failed, write the report, and return the exit code."""
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
    return row.status == FAILED or any(finding.gate in {"errors", "answers"} for finding in row.findings)


def _name(params: GridParams) -> str:
    return f"grid-r{params.round}-{params.cells()[0].without('client_threads', 'samples').slug}"


def _execute(folder: Path, bar: tqdm[Any], numbers: Iterator[int], params: GridParams) -> None:
    words = f"round {params.round}, {params.mode}, {params.engine}, {plural(params.server_threads, 'server thread')}"
    bar.set_postfix_str(words)
    begun = monotonic()
    try:
        execute_grid(params, folder / "notebooks" / f"{_name(params)}.ipynb")
    finally:
        bar.update()
        if bar.disable:
            print(f"run {next(numbers)} of {bar.total}: {words}, {monotonic() - begun:.0f} s", file=sys.stderr)
