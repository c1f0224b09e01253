"""`imdb-serving probe`: one request to a server of someone else, before a sweep sends many."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from imdb_serving.cli import group
from imdb_serving.cli.group import Command, run_of_file
from imdb_serving.errors import ConfigError


def request_options(command: Command) -> Command:
    """Add the options that say what is asked; the command gets them as `asked`, by the names that parameters have."""

    @functools.wraps(command)
    def run(
        *arguments: Any, header: tuple[str, ...], remote: bool, data: str | None, model: str | None, **others: Any
    ) -> Any:
        asked: dict[str, Any] = {f"request_{name}": others.pop(name) for name in ("path", "body", "method")}
        asked |= {name: others.pop(name) for name in ("answer", "protocol")}
        asked |= {"server_model": model, "data": str(Path(data).resolve()) if data else None}
        asked |= {"server_remote": remote or None, "request_headers": dict(map(_split, header)) or None}
        return command(*arguments, asked={name: one for name, one in asked.items() if one is not None}, **others)

    shown = run
    for option in (
        click.option("--remote", is_flag=True, help="The URL may be another machine's."),
        click.option("--model", help="The model's name, of the protocols oip and oip-grpc."),
        click.option("--data", help="A file whose rows are sent: CSV, JSON lines, or a text a line."),
        click.option("--protocol", help="paddle, oip or oip-grpc, instead of a body."),
        click.option("--answer", help="JMESPath of the answer's value."),
        click.option("--method", help="The request's method."),
        click.option("--header", multiple=True, metavar="NAME: VALUE", help="A header, a template; may be repeated."),
        click.option("--body", help="The request's body, a template."),
        click.option("--path", help="The request's path."),
    ):
        shown = option(shown)
    return shown  # type: ignore[return-value]


def _split(header: str) -> tuple[str, str]:
    name, colon, value = header.partition(":")
    if not colon:
        raise ConfigError(f"--header: expected 'NAME: VALUE', got {header!r}")
    return name.strip(), value.strip()


@group.command()
@click.argument("url", default="")
@click.option("--params", type=click.Path(dir_okay=False, path_type=Path), help="A sweep's parameter file.")
@request_options
def probe(url: str, params: Path | None, asked: dict[str, Any]) -> None:
    """Send one request, and show what came back and what was made of it.

    The server is at URL; without one it is that of the parameter file, started by its command and ended again.
    Options stand before what the file says. Exits with 2, and what to mend, at what a sweep would fail at.

    \b
    Example:
      imdb-serving probe http://127.0.0.1:80 --path /predict --body '{"text": {{ text | tojson }}}' --answer 'scores[1]'
      imdb-serving probe --params params/own.yaml
    """
    from imdb_serving.measurement import probe as measurement
    from imdb_serving.measurement.parameters import GridParams

    values: dict[str, Any] = run_of_file(params) if params else {}
    headers = values.get("request_headers", {}) | asked.get("request_headers", {})
    values |= asked | {"request_headers": headers}
    values |= {"server_url": url, "server_command": ""} if url else {}
    if not values.get("server_url") and not values.get("server_command"):
        raise ConfigError("probe: give a URL, or --params FILE with a server's command or URL")
    for line in measurement.probe(GridParams(**values | {"mode": "http"})):
        click.echo(line)
