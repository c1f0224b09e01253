"""`imdb-serving ladder` and `flask-benchmark`: what each layer costs, and the published Flask table measured here."""

from __future__ import annotations

import sys
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imdb_serving.cli import group
from imdb_serving.engines.registry import engines_for
from imdb_serving.errors import ServingError

if TYPE_CHECKING:
    from imdb_serving.measurement.parameters import LadderParams, SweepParams
    from imdb_serving.rows import Row


def measure_ladder(params: SweepParams, folder: Path, run: str) -> bool:
    """Measure the overhead ladder with the sweep's engines and `none`; return whether its notebook ran through."""
    import msgspec

    from imdb_serving.measurement.parameters import LadderParams
    from imdb_serving.report.notebooks import execute

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
    import msgspec

    from imdb_serving.measurement.folders import new_run, outputs_folder
    from imdb_serving.report import ladder
    from imdb_serving.report.notebooks import execute
    from imdb_serving.report.page import write_page

    params = msgspec.structs.replace(params, run=params.run or new_run())
    folder = outputs_folder(params).resolve()
    executed = folder / "notebooks" / "ladder.ipynb"
    engines = " and ".join(params.engines)
    print(f"the overhead ladder: {params.rounds} rounds of {engines}, to {folder}", file=sys.stderr)
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
    from imdb_serving.measurement.inputs import require_model
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
    default=(*engines_for("cnn"), "none"),
    help="May be given several times.",
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
