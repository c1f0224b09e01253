"""The `imdb-serving` command: a file for each group of commands, which parses and does.

A command imports what it needs when it is called, so that --help is quick.
"""

from __future__ import annotations

import click

import imdb_serving
from imdb_serving.cli import (
    advise,
    capacity,
    clients,
    exporting,
    group,
    importing,
    laying_out,
    overhead,
    predicting,
    preparing,
    probe,
    reading,
    serve,
    serve_http,
    slo,
    sweep,
)

VARIABLE = "_IMDB_SERVING_COMPLETE"


def _version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"imdb-serving {imdb_serving.__version__}")
        ctx.exit()


@click.group(cls=group.CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
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


@group.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what has your shell complete commands, options and engines.

    \b
    Example:
      eval "$(imdb-serving completion bash)"
      imdb-serving completion fish > ~/.config/fish/completions/imdb-serving.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click knows all shells of the choice
    click.echo(kind(main, {}, "imdb-serving", VARIABLE).source())


main.add_command(completion)
MODULES = (
    laying_out, advise, preparing, importing, predicting, probe, serve, serve_http, clients, reading, sweep, overhead,
    slo, capacity, exporting,
)  # fmt: skip
for module in MODULES:
    for command in vars(module).values():
        if isinstance(command, click.Command):
            main.add_command(command)
