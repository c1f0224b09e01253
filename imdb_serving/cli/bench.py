"""`imdb-serving bench` and `growth`: our servers beside baselines, and how the cost of serving grows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from imdb_serving.cli import group
from imdb_serving.cli.options import complete_engines
from imdb_serving.config import check_output, project_root
from imdb_serving.engines.registry import engines_in_words, facts_of
from imdb_serving.errors import ConfigError

if TYPE_CHECKING:
    from imdb_serving.measurement.parameters import ComparisonParams, ScalingParams


P = TypeVar("P", "ComparisonParams", "ScalingParams")


@contextmanager
def needs_extra() -> Iterator[None]:
    """Say how to get what is not there, when an import fails in the block."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is missing; run `make bench`, or: pip install 'imdb-serving[bench]'"
        ) from error


def run_bench(params: ComparisonParams) -> None:
    """Compare, write ledger, raw samples and figure to outputs/bench/ENGINE, and print the tables."""
    from imdb_serving.measurement.inputs import require_model

    with needs_extra():
        from imdb_serving.experiment.comparison import measure_comparison
        from imdb_serving.report import comparison as shown

    if facts_of(params.engine).needs_model:
        require_model(params)
    measure_and_show("bench", f"bench/{params.engine}", params, measure_comparison, shown)


def run_growth(params: ScalingParams) -> None:
    """Measure, write ledger, raw samples, tables and figure to outputs/growth, and print the tables."""
    with needs_extra():
        from imdb_serving.experiment.scaling import measure_scaling
        from imdb_serving.report import scaling as shown

    measure_and_show("growth", "growth", params, measure_scaling, shown)


def measure_and_show(
    name: str, where: str, params: P, measure: Callable[[P, Path, Callable[[str], None]], object], shown: Any
) -> None:
    """Measure into a folder below outputs; save the figure and tables of `shown` there, and print the tables."""
    import msgspec

    from imdb_serving.measurement.folders import new_run
    from imdb_serving.report import frames

    params = msgspec.structs.replace(params, run=params.run or new_run())
    folder = check_output(project_root() / "outputs" / where)
    print(f"{params.rounds} rounds, to {folder}", file=sys.stderr)
    measure(params, folder, lambda words: print(words, file=sys.stderr))
    rows = shown.load(folder)
    words = shown.text(rows)
    charts = shown.charts(rows, frames.sharing([frames.cores(rows, folder)]))
    charts.save(folder, name, charts.note)
    (folder / f"{name}.txt").write_text(words + "\n", encoding="utf-8")
    print(words)
    print(f"figure: {folder / name}.png", file=sys.stderr)


@group.command()
@click.option("--engine", default="none", shell_complete=complete_engines, help=f"{engines_in_words()}.")
@click.option("--workers", type=click.IntRange(min=1, max=1024), default=2, help="Workers of every server.")
@click.option(
    "--clients",
    "client_threads",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 8),
    help="Client processes; may be given several times.",
)
@click.option("--rounds", type=click.IntRange(min=2, max=1000), default=6, help="Shuffled passes over all systems.")
@click.option(
    "--requests", type=click.IntRange(min=1), default=2500, help="Requests of each block, shared by its clients."
)
@click.option("--model", default="", help="A bundle's folder; default: outputs/models/cnn, trained when missing.")
def bench(client_threads: tuple[int, ...], **options: Any) -> None:
    """Measure our servers beside others in one interleaved run: raw echoes, raw ASGI, plain Flask on gunicorn.

    Writes rows, raw samples and a figure to outputs/bench/ENGINE and prints the tables. Ratios within a round are what
    counts; a machine's own speed drifts.

    \b
    Example:
      imdb-serving bench --engine onnxruntime --rounds 6
    """
    from imdb_serving.measurement.parameters import ComparisonParams

    run_bench(ComparisonParams(client_threads=list(client_threads), **options))


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
    """Measure how the cost of serving grows with workers, clients, review length and batch.

    Writes rows, raw samples, tables and a figure to outputs/growth and prints the tables. No model is needed: workers
    are of the simulated engine, and on the other axes the engine answers at once.

    \b
    Example:
      imdb-serving growth --most-clients 100 --rounds 5
    """
    from imdb_serving.measurement.parameters import ScalingParams

    full = ScalingParams()
    workers = [count for count in full.workers if count <= most_workers]
    clients = [count for count in full.clients if count <= most_clients]
    run_growth(ScalingParams(workers=workers, clients=clients, **options))
