"""`imdb-serving completion`: the lines that have a shell complete commands, options and engines."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_IMDB_SERVING_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


def print_completion(shell: str, command: click.Command) -> None:
    """Print a shell's completion script."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click completes no {shell}")
    click.echo(kind(command, {}, "imdb-serving", VARIABLE).source())
