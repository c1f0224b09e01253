"""`imdb-serving export` and `history`: what was measured, for the tools of others, and over time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from imdb_serving.cli import group
from imdb_serving.errors import ConfigError, DataError


@group.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--bmf", is_flag=True, help="Write Bencher's Metric Format to standard output.")
@click.option(
    "--mlflow",
    default="",
    metavar="URI",
    help="Write a run of MLflow to a tracking server, or to a folder, and a run below it for each cell.",
)
@click.option("--experiment", default="imdb-serving", help="With --mlflow: the experiment's name.")
def export(folder: Path, bmf: bool, mlflow: str, experiment: str) -> None:  # fmt: skip
    """Pass what the sweep in FOLDER measured on to another tool: Bencher or MLflow.

    A cell that cannot be believed is left out. `cells.csv` and `cells.parquet` in FOLDER are for all others.

    \b
    Example:
      imdb-serving export outputs/default --bmf > results.json
      imdb-serving export outputs/default --mlflow ./mlruns
    """
    if bmf == bool(mlflow):
        raise ConfigError("say what to write: --bmf, or --mlflow URI")
    from imdb_serving.measurement.ledger import FILE
    from imdb_serving.report.exports import Exported

    if not (folder / FILE).is_file():
        raise DataError(f"{folder} holds no {FILE}; run `imdb-serving sweep` first")
    exported = Exported(folder.resolve())
    if bmf:
        print(json.dumps(exported.bmf(), indent=1))
        return
    run = exported.mlflow(mlflow, experiment)
    print(f"run {run} of {experiment}, with {len(exported.cells)} cells below it", file=sys.stderr)


@group.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Default: the folder of the last sweep.")
def history(folders: tuple[Path, ...], out: Path | None) -> None:
    """Follow the same cells over many sweeps: say where they changed, and draw it.

    Sweeps stand in the order of time. Each is compared as `imdb-serving compare` does with the one since which nothing
    changed. Writes history.csv and the figure history.

    \b
    Example:
      imdb-serving history outputs/monday outputs/tuesday outputs/wednesday
    """
    from imdb_serving.report import history as report

    made = report.history(folders)
    place = (out or made.sweeps[-1].folder).resolve()
    place.mkdir(parents=True, exist_ok=True)
    print(report.text(made))
    report.table(made).to_csv(place / "history.csv", index=False)
    report.charts(made).save(place / "figures", "history")
    print(f"table: {place / 'history.csv'}\nfigure: {place / 'figures' / 'history'}.png", file=sys.stderr)
