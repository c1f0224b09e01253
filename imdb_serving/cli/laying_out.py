"""`imdb-serving notebooks`: notebooks, parameter files and examples, laid out to be changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from imdb_serving.cli import group
from imdb_serving.config import LAID_OUT, check_output, shipped

LEFT_OUT = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "out*.ipynb")


def lay_out(folder: Path, *, replace: bool) -> None:
    """Copy the files below `folder`, and say which; those that are there and differ are kept, unless to be replaced."""
    kept: list[Path] = []
    count = 0

    def copy(source: str, target: str) -> None:
        nonlocal count
        there = Path(target)
        if there.exists() and not replace:
            if there.read_bytes() != Path(source).read_bytes():
                kept.append(there)
            return
        shutil.copyfile(source, target)
        count += 1

    for name in LAID_OUT:
        shutil.copytree(
            shipped(name), check_output(folder / name), copy_function=copy, dirs_exist_ok=True, ignore=LEFT_OUT
        )
    click.echo(f"wrote {count} files to {folder}: {', '.join(LAID_OUT)}")
    for path in kept:
        click.echo(f"kept {path}, which was changed; --replace writes it anew")
    click.echo(f"in {folder}: `imdb-serving sweep`, or `jupyter lab notebooks` and there explore.ipynb")


@group.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Write files anew that are there and were changed.")
def notebooks(folder: Path, *, replace: bool) -> None:
    """Lay out the notebooks, parameter files and examples below FOLDER, to run and change them.

    Commands that run in FOLDER, or below it, use these notebooks and write to its outputs.

    \b
    Example:
      imdb-serving notebooks bench
      cd bench
      imdb-serving sweep params/smoke.yaml
      papermill notebooks/grid.ipynb out.ipynb -p server_threads 8
      jupyter lab notebooks
    """
    lay_out(folder, replace=replace)
