"""`imdb-serving advise`: from a server's command to the answer, with a parameter file that is kept."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import click

from imdb_serving.cli import group
from imdb_serving.cli.group import Seconds, as_engine
from imdb_serving.cli.probe import request_options
from imdb_serving.cli.reading import select_option, zone_option
from imdb_serving.cli.sweep import SweepOptions, run_sweep
from imdb_serving.config import DEFAULT_TIMEOUT, project_root
from imdb_serving.errors import ConfigError


def _server(
    command: str, url: str, environment: tuple[str, ...], directory: Path | None, **others: str | float
) -> dict[str, Any]:
    """Return the parameters of a server by their whole names."""
    if not command and not url:
        raise ConfigError(
            "advise: say how the server starts, as --command 'gunicorn -w {{ server_threads }} -b {{ host }}:"
            "{{ port }} app:app', or where one is that runs, as --url http://127.0.0.1:8000"
        )
    pairs = [one.partition("=") for one in environment]
    if wrong := next((name + equals for name, equals, _ in pairs if not name or not equals), None):
        raise ConfigError(f"--environment: expected NAME=VALUE, got {wrong!r}")
    values: dict[str, Any] = {"server_command": command, "server_url": url}
    values["server_environment"] = {name: value for name, _, value in pairs}
    if command:
        values["server_directory"] = _from_project((directory or Path()).resolve())
    return values | {f"server_{name}": value for name, value in others.items()}


def _from_project(path: Path) -> str:
    """Return a path as parameter files have it: from the project's folder, or whole."""
    root = project_root().resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def run_advise(
    asked: dict[str, Any], file: Path | None, minutes: float, options: SweepOptions, *, replace: bool
) -> int:
    """Look at the server, write the parameter file, search, and print the verdict; returns the exit code of a sweep.

    Nothing that was measured before counts. A file that is there is kept, unless it is to be replaced.
    """
    from imdb_serving.experiment import advice
    from imdb_serving.measurement.parameters import GridParams, load_sweep

    begun = monotonic()
    params = GridParams(**asked | {"mode": "http", "server_threads": 1})
    path = file or Path(f"{re.sub(r'[^0-9A-Za-z]+', '-', params.server_label).strip('-')}.yaml")
    if path.exists() and not replace:
        raise ConfigError(
            f"{path} is there already: measure it with `imdb-serving sweep {shlex.quote(str(path))}`, have it written "
            "anew with --replace, or name another file with --file"
        )
    used, machine = advice.counts_used(params), advice.this_machine()
    click.echo("looking at the server with one worker", err=True)
    look = advice.first_look(params)
    click.echo(str(look), err=True)
    grid = advice.grid_within(60 * minutes - (monotonic() - begun), look, used, machine)
    values = advice.parameters(asked, grid, advice.timeout_of(look, grid.clients[-1], params.timeout))
    values |= {"select": options.select} if options.select else {}
    head = f"Written by imdb-serving advise. Change it, and measure: imdb-serving sweep {shlex.quote(str(path))}"
    path.write_text(advice.text_of(values, head), encoding="utf-8")
    load_sweep(path)
    click.echo(f"parameters: {path}", err=True)
    for line in advice.words_of_grid(grid, used, look, machine):
        click.echo(f"  {line}", err=True)
    return run_sweep(path, options._replace(seconds=60 * minutes - (monotonic() - begun)))


@group.command()
@click.option("--command", default="", help="What starts the server, a template.")
@click.option("--url", default="", help="Instead of a command, where a server is that runs.")
@request_options
@click.option("--ready", default="", help="A path that is answered when the server is ready.")
@click.option(
    "--ready-seconds", type=Seconds(min=0, min_open=True), default=60.0, help="How long it may take to start."
)
@click.option(
    "--timeout", type=Seconds(min=0, min_open=True), default=DEFAULT_TIMEOUT, help="Of a request, in seconds."
)
@click.option("--environment", multiple=True, metavar="NAME=VALUE", help="Of the server, a template; may be repeated.")
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), help="Of the server. Default: this one.")
@click.option("--name", default="", help="What the server is called in tables. Default: its program's name.")
@click.option("--engine", default="", callback=as_engine, help="The engine of ours that it runs, if it does.")
@click.option(
    "--minutes", type=click.FloatRange(0, 1440, min_open=True), default=15.0, help="How long is measured at most."
)
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="The parameter file. Default: NAME.yaml.")
@click.option("--replace", is_flag=True, help="Write the parameter file anew where it is there.")
@click.option("--outputs", type=click.Path(file_okay=False, path_type=Path), help="Default: the project's outputs.")
@zone_option
@select_option
def advise(
    *,
    asked: dict[str, Any],
    engine: str,
    timeout: float,
    minutes: float,
    file: Path | None,
    replace: bool,
    zone: float,
    select: str,
    outputs: Path | None,
    **server: Any,
) -> None:
    """Find how many workers, math threads and clients a server of someone else should have on this machine.

    It looks at the server with one worker, writes the parameter file of a search over what the machine has, and runs
    that. Counts that the command and the environment name are searched: {{ server_threads }}, {{ math_threads }}. When
    the time is up, or behind Ctrl-C, the verdict is on what was measured so far.

    \b
    Example:
      imdb-serving advise --command 'gunicorn -w {{ server_threads }} -b {{ host }}:{{ port }} app:app' \\
          --path /predict --body '{"text": {{ text | tojson }}}' --answer 'scores[1]' --data reviews.csv
      imdb-serving advise --url http://127.0.0.1:8000 --path /predict --body '{"text": {{ text | tojson }}}'
    """
    if "data" in asked:
        asked["data"] = _from_project(Path(asked["data"]))
    asked |= _server(**server) | {"engine": engine, "timeout": timeout}
    asked = {name: one for name, one in asked.items() if one}
    options = SweepOptions(outputs=outputs, fresh=True, zone=zone, select=select)
    sys.exit(run_advise(asked, file, minutes, options, replace=replace))
