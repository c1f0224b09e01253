"""The commands that measure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from imdb_serving.cli.options import Milliseconds, complete_engines, probe_options
from imdb_serving.commands import manual
from imdb_serving.engines.registry import engines_for, engines_in_words


@manual.command()
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
    from imdb_serving.commands.sweep import SweepOptions, run_sweep

    sys.exit(run_sweep(params, SweepOptions(**options)))


@manual.command()
@click.option(
    "--engine",
    "engines",
    multiple=True,
    default=(*engines_for("cnn"), "none"),
    help="May be given several times.",
)
@click.option(
    "--server-threads", type=click.IntRange(min=1, max=1024), default=2, help="Workers; clients are one, and as many."
)
@click.option("--rounds", type=click.IntRange(min=2, max=1000), default=8, help="Shuffled passes over all rungs.")
@click.option("--requests", type=click.IntRange(min=1), default=40, help="Of each client, in each block.")
@click.option("--model", default="", help="A bundle's folder; default: outputs/models/cnn, trained when missing.")
@click.option("--outputs", type=click.Path(file_okay=False), default="", help="Default: the project's outputs.")
def ladder(engines: tuple[str, ...], **options: Any) -> None:
    """Measure what each layer between the bare model and the published Flask service costs a request.

    Runs notebooks/ladder.ipynb; writes outputs/ladder/ladder.html and prints the table.

    \b
    Example:
      imdb-serving ladder --server-threads 2 --rounds 8
    """
    from imdb_serving.bench.parameters import LadderParams
    from imdb_serving.commands.ladder import run_ladder_notebook

    run_ladder_notebook(LadderParams(engines=list(engines), **options))


@manual.command()
@click.option("--engine", default="none", shell_complete=complete_engines, help=f"{engines_in_words()}.")
@click.option("--workers", type=click.IntRange(min=1, max=1024), default=2, help="Of every server.")
@click.option(
    "--clients",
    "client_threads",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 8),
    help="Client processes; may be given several times.",
)
@click.option("--rounds", type=click.IntRange(min=2, max=1000), default=6, help="Shuffled passes over all systems.")
@click.option("--requests", type=click.IntRange(min=1), default=2500, help="Of a block, shared by its clients.")
@click.option("--model", default="", help="A bundle's folder; default: outputs/models/cnn, trained when missing.")
def bench(client_threads: tuple[int, ...], **options: Any) -> None:
    """Measure our servers beside others in one interleaved run: raw echoes, raw ASGI, plain Flask on gunicorn.

    Writes rows, raw samples and a figure to outputs/bench/ENGINE and prints the tables. Ratios within a round are what
    counts; a machine's own speed drifts.

    \b
    Example:
      imdb-serving bench --engine onnxruntime --rounds 6
    """
    from imdb_serving.bench.parameters import OthersParams
    from imdb_serving.commands.bench import run_bench

    run_bench(OthersParams(client_threads=list(client_threads), **options))


@manual.command()
@click.option("--most-workers", type=click.IntRange(min=1, max=1024), default=48, help="Of the simulated engine.")
@click.option(
    "--most-clients", type=click.IntRange(min=1, max=10_000), default=500, help="Above 16, threads of 16 processes."
)
@click.option(
    "--rounds", type=click.IntRange(min=2, max=1000), default=3, help="Shuffled passes over all points and modes."
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=1.0, help="About, of a block.")
def growth(most_workers: int, most_clients: int, **options: Any) -> None:
    """Measure how the cost of serving grows with workers, clients, review length and batch.

    Writes rows, raw samples, tables and a figure to outputs/growth and prints the tables. No model is needed: workers
    are of the simulated engine, and on the other axes the engine answers at once.

    \b
    Example:
      imdb-serving growth --most-clients 100 --rounds 5
    """
    from imdb_serving.bench.parameters import GrowthParams
    from imdb_serving.commands.growth import run_growth

    full = GrowthParams()
    workers = [count for count in full.workers if count <= most_workers]
    clients = [count for count in full.clients if count <= most_clients]
    run_growth(GrowthParams(workers=workers, clients=clients, **options))


@manual.command("flask-benchmark")
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
    from imdb_serving.commands.flask_benchmark import run_flask_benchmark

    sys.exit(run_flask_benchmark(model, samples, server_threads))


@manual.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "--scenario",
    type=click.Choice(["SingleStream", "Server", "Offline"]),
    default="Server",
    help="One at a time; at drawn times; all at once.",
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Server: queries a second to offer.")
@probe_options
@click.option(
    "--clients", type=click.IntRange(min=1, max=1024), default=16, help="Threads under LoadGen, else processes."
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, help="Of each.")
def mlperf(**options: Any) -> None:
    """Have MLPerf's LoadGen drive our client, then our own load generator do the same, and print both.

    Needs the extra `loadgen`. MODEL is a bundle's folder; default: outputs/models/cnn, trained when missing.

    \b
    Example:
      imdb-serving mlperf --scenario Server --rate 300 --engine simulated
    """
    from imdb_serving.commands.mlperf import run_mlperf

    sys.exit(run_mlperf(**options))


@manual.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--p50", type=Milliseconds(), help="What half of the requests have to take at most.")
@click.option("--p90", type=Milliseconds(), help="90 % of them.")
@click.option("--p95", type=Milliseconds(), help="95 %; give one of these.")
@click.option("--p99", type=Milliseconds(), help="99 %.")
@click.option(
    "--errors", type=click.FloatRange(0, 1), default=0.0, help="Share of requests without an answer, at most."
)
@probe_options
@click.option(
    "--clients", type=click.IntRange(min=1, max=1024), default=16, help="Client processes, of the open loop at most."
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=2.0, help="About, of a probe.")
@click.option("--rounds", type=click.IntRange(min=1, max=1000), default=3, help="How often each load is probed.")
def slo(**options: Any) -> None:
    """Find the highest rate (open loop) and the most clients (closed loop) that hold a limit of latency.

    MODEL is a bundle's folder; default: outputs/models/cnn, trained when missing.

    \b
    Example:
      imdb-serving slo --p95 20ms --errors 0
      imdb-serving slo --engine folded --mode socket --p99 2ms
    """
    from imdb_serving.commands.slo import run_slo

    sys.exit(run_slo(**options))
