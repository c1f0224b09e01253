"""`imdb-serving sweep` and `report`: notebooks run through papermill, then figures, tables and one page."""

from __future__ import annotations

import functools
import json
import logging
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from imdb_serving.bench.cell import OK, describe
from imdb_serving.bench.environment import environment_card
from imdb_serving.bench.folders import outputs_folder
from imdb_serving.bench.ledger import FILE, Ledger
from imdb_serving.bench.models import require_model
from imdb_serving.bench.parameters import GridParams, LadderParams, SweepParams, load_sweep, model_folder
from imdb_serving.bench.sweep import plan, run_plan
from imdb_serving.config import project_root
from imdb_serving.engines import tuning
from imdb_serving.engines.registry import EngineSpec, facts_of
from imdb_serving.errors import DataError, ServingError
from imdb_serving.model.bundle import open_bundle
from imdb_serving.report import ladder
from imdb_serving.report.notebooks import execute, execute_grid, notebook_path, write_page


def run_sweep(path: Path, outputs: Path | None) -> int:
    """Run a whole sweep; returns the exit code: 0, or 1 when a run failed."""
    params = load_sweep(path)
    notebook_path("grid.ipynb")  # outside the project there is nothing to run
    folder = (outputs or project_root() / "outputs").resolve() / path.stem
    with_models = [part for part in params.parts() if facts_of(part.engine).needs_model]
    for place, part in {model_folder(part): part for part in with_models}.items():
        print(f"model: {place}", file=sys.stderr)
        require_model(part)
    for part in with_models:  # before anything is measured, and for the environment card
        tuning.ensure(EngineSpec(part.engine, part.math_threads), open_bundle(model_folder(part)))
    run = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    runs = plan(params, path.stem, run, folder.parent)
    cells = sum(len(one.client_threads) for one in runs)
    print(
        f"sweep {path.stem}: {len(runs)} notebook runs, {cells} cells, to {folder}",
        file=sys.stderr,
    )
    folder.mkdir(parents=True, exist_ok=True)
    card = environment_card(model_folder(with_models[0]) if with_models else None)
    (folder / "environment.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    # An interrupted notebook leaves tasks that asyncio would tell of in pages; the notebook itself keeps its error.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with tqdm(total=len(runs), desc=f"sweep {path.stem}", unit="run") as bar:
        try:
            failed = run_plan(
                runs,
                functools.partial(_execute, folder, bar),
                lambda one, error: bar.write(f"FAILED {_name(one)}: {error}", file=sys.stderr),
            )
        except KeyboardInterrupt:
            bar.close()
            print(f"interrupted; `imdb-serving report {folder}` draws the cells recorded so far", file=sys.stderr)
            return 130
    if params.ladder_rounds:
        failed += _ladder(params, folder, run)
    if failed:
        planned = len(runs) + bool(params.ladder_rounds)
        print(f"{failed} of {planned} runs failed; their notebooks in {folder / 'notebooks'} show why", file=sys.stderr)
    rows = [row for row in Ledger(folder).rows() if row["run"] == run] if (folder / FILE).is_file() else []
    bad = [row for row in rows if row["status"] != OK]
    for row in bad:
        print(f"round {row['round']}, {describe(row)}", file=sys.stderr)
    # Engines agree within 1e-6, which may show in the sixth decimal; the cells of one engine and net agree in all.
    same = {(row["engine"], row["net"]) for row in rows if row["status"] == OK}
    differ = len({(row["engine"], row["net"], row["answers"]) for row in rows if row["status"] == OK}) > len(same)
    if differ:
        print("WRONG: not all cells gave the same answers; the report says which differ", file=sys.stderr)
    if len(bad) < len(rows):
        write_report(folder)
    return 1 if failed or bad or differ else 0


def _ladder(params: SweepParams, folder: Path, run: str) -> int:
    """Measure the overhead ladder with the sweep's engines and `null`; return how many of these runs failed, 0 or 1."""
    engines = list(dict.fromkeys([*(part.engine for part in params.parts() if part.net == params.net), "null"]))
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
        return 1
    return 0


def _name(params: GridParams) -> str:
    return f"grid-r{params.round}-{params.mode}-{params.engine}-s{params.server_threads}"


def _execute(folder: Path, bar: tqdm[Any], params: GridParams) -> None:
    bar.set_postfix_str(f"round {params.round}, {params.mode}, {params.engine}, {params.server_threads} server threads")
    try:
        execute_grid(params, folder / "notebooks" / f"{_name(params)}.ipynb")
    finally:
        bar.update()


def run_ladder_notebook(params: LadderParams) -> None:
    """Measure the overhead ladder through its notebook, write its page, and print its table."""
    folder = outputs_folder(params).resolve()
    executed = folder / "notebooks" / "ladder.ipynb"
    engines = " and ".join(params.engines)
    print(f"the overhead ladder: {params.rounds} rounds of {engines}, to {folder}", file=sys.stderr)
    execute("ladder.ipynb", executed, {**msgspec.to_builtins(params), "outputs": str(folder.parent)})
    write_page(executed, folder / "ladder.html", "imdb-serving: the overhead ladder")
    print(ladder.text(ladder.load(folder)))
    print(f"page: {folder / 'ladder.html'}", file=sys.stderr)


def write_report(folder: Path) -> None:
    """Execute the report notebook on a sweep's folder, and write its figures, `cells.csv` and `report.html`."""
    folder = folder.resolve()
    if not (folder / FILE).is_file():
        raise DataError(f"{folder} holds no {FILE}; run `imdb-serving sweep` first")
    print("drawing the report", file=sys.stderr)
    executed = folder / "notebooks" / "report.ipynb"
    execute("report.ipynb", executed, {"folder": str(folder)})
    write_page(executed, folder / "report.html", f"imdb-serving: {folder.name}")
    print(f"report: {folder / 'report.html'}", file=sys.stderr)
