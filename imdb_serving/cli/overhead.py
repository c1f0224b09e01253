"""What serving costs: `ladder`, `flask-benchmark` and `growth`."""

from __future__ import annotations

import sys
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imdb_serving.cli import group
from imdb_serving.cli.group import text_options
from imdb_serving.config import check_output, project_root
from imdb_serving.errors import ServingError

if TYPE_CHECKING:
    from imdb_serving.cell import Row
    from imdb_serving.measurement.parameters import LadderParams, ScalingParams, SweepParams
    from imdb_serving.report.kernels import Kernels


def run_growth(params: ScalingParams) -> None:
    """Measure, write ledger, raw samples, tables and figure to outputs/growth, and print the tables."""
    import msgspec

    from imdb_serving.experiment.scaling import measure_scaling
    from imdb_serving.measurement.ledger import new_run
    from imdb_serving.report import frames, scaling

    params = msgspec.structs.replace(params, run=params.run or new_run())
    folder = check_output(project_root() / "outputs" / "growth")
    print(f"{params.rounds} rounds, to {folder}", file=sys.stderr)
    measure_scaling(params, folder, lambda words: print(words, file=sys.stderr))
    rows = scaling.load(folder)
    words = scaling.text(rows)
    charts = scaling.charts(rows, frames.sharing([frames.cores(rows, folder)]))
    charts.save(folder, "growth", charts.note)
    (folder / "growth.txt").write_text(words + "\n", encoding="utf-8")
    print(words)
    print(f"figure: {folder / 'growth'}.png", file=sys.stderr)


@group.command()
@click.option(
    "--most-workers",
    type=click.IntRange(min=1, max=1024),
    default=48,
    help="Greatest count of workers, of the simulated engine.",
)
@click.option(
    "--most-clients",
    type=click.IntRange(min=1, max=10_000),
    default=500,
    help="Greatest count of clients; above 16 they are threads of 16 processes.",
)
@click.option(
    "--rounds", type=click.IntRange(min=2, max=1000), default=3, help="Shuffled passes over all points and modes."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=1.0, help="About how long a block takes."
)
def growth(most_workers: int, most_clients: int, **options: Any) -> None:
    """Measure how the cost of serving grows with workers, processes, clients, review length and batch.

    Writes rows, raw samples, tables and a figure to outputs/growth and prints the tables. No model is needed: workers,
    also those that are divided among processes, are of the simulated engine; on the other axes the engine answers at
    once.

    \b
    Example:
      imdb-serving growth --most-clients 100 --rounds 5
    """
    from imdb_serving.measurement.parameters import ScalingParams

    full = ScalingParams()
    workers = [count for count in full.workers if count <= most_workers]
    clients = [count for count in full.clients if count <= most_clients]
    run_growth(ScalingParams(workers=workers, clients=clients, **options))


def measure_ladder(params: SweepParams, folder: Path, run: str, kernels: Kernels) -> bool:
    """Measure the overhead ladder with the sweep's engines and `none`; return whether its notebook ran through."""
    import msgspec

    from imdb_serving.report.notebooks import execute

    rungs = _ladder_params(params, folder, run)
    print(f"the overhead ladder: {rungs.rounds} rounds of {' and '.join(rungs.engines)}", file=sys.stderr)
    try:
        execute("ladder.ipynb", folder / "notebooks" / "ladder.ipynb", msgspec.to_builtins(rungs), kernels)
    except ServingError as error:
        print(f"FAILED ladder: {error}", file=sys.stderr)
        return False
    return True


def measure_recommended(params: SweepParams, folder: Path, run: str, zone: float) -> None:
    """Measure the rungs of serving with as many server threads as the verdict recommends, where the ladder had others.

    They are rounds of their own, numbered behind those of other counts, each with the bare model beside.
    """
    import msgspec

    from imdb_serving.cell import plural
    from imdb_serving.experiment.ladder import run_ladder, rung_of_mode
    from imdb_serving.report import frames
    from imdb_serving.report.verdict import verdict

    place, usual = verdict(frames.load(folder), folder, zone).answer.recommended, _ladder_params(params, folder, run)
    rung = rung_of_mode(place.mode, place.server) if place else None
    if place is None or rung is None or place.engine not in usual.engines:
        return
    threads, math = place.server_threads, place.math_threads
    if (threads, math) == (usual.server_threads, usual.math_threads):
        return
    rungs = ["bare", "inproc", *dict.fromkeys([rung, "flask"])]
    words = plural(threads, "server thread") + (f" x {plural(math, 'math thread')}" if math > 1 else "")
    print(f"the overhead ladder with {words}: {', '.join(rungs)}", file=sys.stderr)
    more = msgspec.structs.replace(usual, engines=[place.engine], server_threads=threads, math_threads=math)
    run_ladder(more, lambda words: print(words, file=sys.stderr), rungs, usual.rounds * threads * math + 1)


def _ladder_params(params: SweepParams, folder: Path, run: str) -> LadderParams:
    """Return the parameters of a sweep's ladder: its engines that run its net, and `none`."""
    from imdb_serving.cell import FOREIGN
    from imdb_serving.measurement.parameters import LadderParams

    parts = [part for part in params.parts() if (part.net, part.model) == (params.net, params.model)]
    engines = [part.engine for part in parts]
    others = [part for part in parts if FOREIGN in part.modes and part.engine]
    return LadderParams(
        engines=list(dict.fromkeys([*filter(None, engines), "none"])),
        net=params.net,
        model=params.model,
        data=params.data,
        text_column=params.text_column,
        label_column=params.label_column,
        math_threads=params.math[0],
        rounds=params.ladder_rounds,
        seed=params.seed,
        sweep=folder.name,
        run=run,
        outputs=str(folder.parent),
        servers=[{**part.description, "engine": part.engine} for part in others],
    )


def run_ladder_notebook(params: LadderParams) -> None:
    """Measure the overhead ladder through its notebook, write its page, and print its table."""
    import msgspec

    from imdb_serving.cell import listed
    from imdb_serving.measurement.ledger import new_run, outputs_folder
    from imdb_serving.report import ladder
    from imdb_serving.report.notebooks import execute
    from imdb_serving.report.page import write_page

    params = msgspec.structs.replace(params, run=params.run or new_run())
    folder = outputs_folder(params).resolve()
    executed = folder / "notebooks" / "ladder.ipynb"
    print(f"the overhead ladder: {params.rounds} rounds of {listed(params.engines)}, to {folder}", file=sys.stderr)
    execute("ladder.ipynb", executed, {**msgspec.to_builtins(params), "outputs": str(folder.parent)})
    write_page(executed, folder / "ladder.html", "imdb-serving: the overhead ladder")
    print(ladder.text(ladder.load(folder)))
    print(f"page: {folder / 'ladder.html'}", file=sys.stderr)


CLIENTS = [1, 2, 4, 8, 12, 16, 20, 24]
TIMEOUT = 60.0
WAYS = (("as published", "flask-dev", "curl"), ("flask, keep-alive", "flask", "keep-alive"))


def run_flask_benchmark(model: Path | None, samples: int, server_threads: int) -> int:
    """Measure both arrangements and print the table; returns the exit code: 0, or 1 when a cell failed."""
    from imdb_serving.experiment.grid import describe, run_grid
    from imdb_serving.measurement.models import require_model
    from imdb_serving.measurement.parameters import GridParams
    from imdb_serving.processes import temporary_folder

    rows = {}
    with temporary_folder() as folder:
        for way, mode, http_client in WAYS:
            params = GridParams(
                mode=mode,
                http_client=http_client,
                model=str(model.resolve()) if model else "",
                server_threads=server_threads,
                client_threads=CLIENTS,
                samples=samples,
                timeout=TIMEOUT,
                outputs=folder,
            )
            require_model(params)
            print(f"{way}: {mode}, {http_client} clients, {server_threads} server threads", file=sys.stderr)
            rows[way] = run_grid(params, lambda text: print(f"  {text}", file=sys.stderr))
    print(_table(rows, samples))
    failed = [row for group in rows.values() for row in group if row.error]
    for row in failed:
        print(describe(row), file=sys.stderr)
    return 1 if failed else 0


def _table(rows: dict[str, list[Row]], samples: int) -> str:
    from imdb_serving.analysis import published as reference

    published: Any = reference.published_table("flask").set_index("client_threads")
    lines = [
        "Seconds. Serving time: what Flask waited for its answers, summed over all requests; total time: what a client",
        f"needs for its share of {samples:,} samples, the published {reference.SAMPLES:,} on {reference.HARDWARE}.",
        "",
        f"{'':>8}" + "".join(f"{name:>28}" for name in ("published 2020", *rows)),
        f"{'clients':>8}" + f"{'serving':>16}{'total':>12}" * (1 + len(rows)),
    ]
    for number, clients in enumerate(CLIENTS):
        figures = [(published.loc[clients, "serving_s"], published.loc[clients, "total_s"])]
        figures += [(_serving(group[number]), group[number].sums_s.get("total", nan)) for group in rows.values()]
        lines.append("".join([f"{clients:>8}", *(f"{serving:>16.3f}{total:>12.3f}" for serving, total in figures)]))
    return "\n".join(lines)


def _serving(row: Row) -> float:
    """Return the serving time of all requests of a cell, NaN for one that failed."""
    from imdb_serving.analysis.summary import serving_seconds

    sums = {f"{name}_s": seconds for name, seconds in row.sums_s.items()}
    return float(serving_seconds({**sums, "client_threads": row.cell.client_threads}, row.stages)) if sums else nan


@group.command()
@click.option(
    "--engine",
    "engines",
    multiple=True,
    help="May be given several times. Default: those that run the model, and none.",
)
@click.option(
    "--server-threads",
    type=click.IntRange(min=1, max=1024),
    default=2,
    help="Workers; measured with one client and with as many.",
)
@click.option("--rounds", type=click.IntRange(min=2, max=1000), default=8, help="Shuffled passes over all rungs.")
@click.option("--requests", type=click.IntRange(min=1), default=40, help="Requests of each client in each block.")
@click.option("--model", default="", help="A bundle's folder; default: outputs/models/cnn, trained when missing.")
@text_options
@click.option("--outputs", type=click.Path(file_okay=False), default="", help="Default: the project's outputs.")
def ladder(engines: tuple[str, ...], **options: Any) -> None:
    """Measure what each layer between the bare model and the published Flask service costs a request.

    Runs notebooks/ladder.ipynb; writes outputs/ladder/ladder.html and prints the table.

    \b
    Example:
      imdb-serving ladder --server-threads 2 --rounds 8
    """
    from imdb_serving.measurement.parameters import LadderParams

    run_ladder_notebook(LadderParams(engines=list(engines), **options))


@group.command("flask-benchmark")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--samples", type=click.IntRange(min=24), default=2500, help="As published: 2,500.")
@click.option("--server-threads", type=click.IntRange(min=1, max=1024), default=4, help="Workers.")
def flask_benchmark(model: Path | None, samples: int, server_threads: int) -> None:
    """Print the published Flask table, the published arrangement measured here, and our Flask mode.

    MODEL is a bundle's folder; default: outputs/models/cnn, trained when missing.

    \b
    Example:
      imdb-serving flask-benchmark serving_server_model
    """
    sys.exit(run_flask_benchmark(model, samples, server_threads))
