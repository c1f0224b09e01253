"""`imdb-serving notebooks`: notebooks, parameter files and examples, laid out to be changed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from imdb_serving.cli import group
from imdb_serving.config import PROJECT_FOLDERS, check_output, shipped

LEFT_OUT = re.compile(r"/(__pycache__|\.ipynb_checkpoints)/|/out[^/]*\.ipynb$")
"""What a checkout may have beside its own files."""


def lay_out(folder: Path, *, replace: bool) -> None:
    """Copy the files below `folder`, and say which; those that are there and differ are kept, unless to be replaced."""
    count = 0
    for source, name in _files():
        target = check_output(folder / name)
        if not target.exists() or replace:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            count += 1
        elif target.read_bytes() != source.read_bytes():
            click.echo(f"kept {target}, which differs; --replace writes it anew")
    click.echo(f"wrote {count} files to {folder}: {', '.join(PROJECT_FOLDERS)}")
    click.echo(f"in {folder}: `imdb-serving sweep`, or `jupyter lab notebooks` and there explore.ipynb")


def _files() -> Iterator[tuple[Path, Path]]:
    """Yield the files, each with its path below the folder in which they are laid out."""
    for name in PROJECT_FOLDERS:
        for path in sorted(shipped(name).rglob("*")):
            if path.is_file() and not LEFT_OUT.search(path.as_posix()):
                yield path, path.relative_to(shipped(name).parent)


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
