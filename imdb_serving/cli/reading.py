"""The commands that read what was measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from imdb_serving.cli.options import Milliseconds, as_engine, complete_engines
from imdb_serving.commands import manual


@manual.command()
@click.argument("first", metavar="A", type=click.Path(file_okay=False, path_type=Path))
@click.argument("second", metavar="B", type=click.Path(file_okay=False, path_type=Path))
def compare(first: Path, second: Path) -> None:
    """Compare two sweeps' folders cell by cell: what B gained or lost against A, with intervals, against noise.

    The exit code is 0 when B is the same or better, 1 when a cell is worse, 2 when they are not comparable.

    \b
    Example:
      imdb-serving compare outputs/before outputs/default
    """
    from imdb_serving.commands.compare import run_compare

    sys.exit(run_compare(first, second))


@manual.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def report(folder: Path) -> None:
    """Rebuild the report of a sweep from its ledger.

    \b
    Example:
      imdb-serving report outputs/default
    """
    from imdb_serving.commands.report import write_report

    write_report(folder)


@manual.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: trace.json in FOLDER.")
@click.option("--requests", type=click.IntRange(min=1), default=200, help="How many, from the middle of the run.")
@click.option("--mode", default="", help="Of a cell of this mode; default: any.")
@click.option(
    "--engine", default="", shell_complete=complete_engines, callback=as_engine,
    help="Of a cell of this engine; default: any.",
)  # fmt: skip
@click.option("--server-threads", type=click.IntRange(min=0), default=0, help="With so many; 0: any.")
@click.option("--clients", type=click.IntRange(min=0), default=0, help="With so many; 0: any.")
def trace(folder: Path, **options: Any) -> None:
    """Write requests of a sweep's cell as a trace, across clients, server and workers, for Perfetto or Chrome.

    FOLDER is a sweep's folder with its raw samples. Of the cells that fit, the one of the highest throughput is taken.

    \b
    Example:
      imdb-serving trace outputs/default
      imdb-serving trace outputs/default --mode flask --engine paddle --clients 4 --out flask.json
    """
    from imdb_serving.commands.trace import write_requests

    write_requests(folder, **options)


@manual.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), required=True, help="Requests/s to serve.")
@click.option("--p95", type=Milliseconds(), required=True, help="That 95 of 100 are to be answered within: 20ms, 1s.")
@click.option("--mode", default="", help="Of cells of this mode; default: any.")
@click.option(
    "--engine", default="", shell_complete=complete_engines, callback=as_engine,
    help="Of cells of this engine; default: any.",
)  # fmt: skip
@click.option("--server-threads", type=click.IntRange(min=0), default=0, help="With so many; 0: any.")
@click.option("--extrapolate", is_flag=True, help="Tell of more than twice the nodes that were measured as well.")
def capacity(folder: Path, **options: Any) -> None:
    """Say how many nodes of which thread count a load takes, from a sweep's closed loops.

    FOLDER is a sweep's folder with its raw samples. The Universal Scalability Law gives what a node does with so many
    requests under way, and a simulation how long they take when they arrive by chance.

    \b
    Example:
      imdb-serving capacity outputs/default --rate 5000 --p95 20ms
    """
    from imdb_serving.commands.capacity import run_capacity

    sys.exit(run_capacity(folder, **options))
