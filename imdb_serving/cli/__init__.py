"""The `imdb-serving` command: parses and calls; nothing else.

A command imports what it needs when it is called, so that --help is quick.
"""

from __future__ import annotations

import click

import imdb_serving
from imdb_serving.cli import clients, measuring, preparing, reading, servers
from imdb_serving.commands import manual


@click.group(cls=manual.Manuals, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(imdb_serving.__version__)
def main() -> None:
    """Serve an IMDB sentiment model over RPC or HTTP, and measure what serving costs.

    \b
    Example:
      imdb-serving train --net cnn
      imdb-serving serve serving_server_model --server-threads 4 &
      imdb-serving flask serving_server_model --server-threads 4 &
      imdb-serving data --samples 2500 --format ids --out test.data
      cat test.data | imdb-serving client inference.conf > result
      imdb-serving sweep params/default.yaml
    """


@manual.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what has your shell complete commands, options and engines.

    \b
    Example:
      eval "$(imdb-serving completion bash)"
      imdb-serving completion fish > ~/.config/fish/completions/imdb-serving.fish
    """
    from imdb_serving.commands.completion import print_completion

    print_completion(shell, main)


main.add_command(completion)
for module in (preparing, servers, clients, measuring, reading):
    for command in vars(module).values():
        if isinstance(command, click.Command):
            main.add_command(command)
