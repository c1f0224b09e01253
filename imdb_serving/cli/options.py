"""Options that several commands share: times, engines, credentials, and the server that is probed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from imdb_serving.config import engine_name
from imdb_serving.engines.registry import ENGINES, engines_in_words

Command = TypeVar("Command", bound=Callable[..., Any])


class Seconds(click.FloatRange):
    """A range of floats without the one that compares with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, unless it is none."""
        number = super().convert(value, param, ctx)
        return number if number == number else self.fail(f"{value} is not a number of seconds", param, ctx)  # noqa: PLR0124


class Milliseconds(click.ParamType[float]):
    """A time with its unit, as 20ms or 0.5s; a number alone is milliseconds."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        text = str(value).strip()
        factor = 1.0 if text.endswith("ms") else 1000.0 if text.endswith("s") else 1.0
        try:
            number = float(text.removesuffix("s").removesuffix("m")) * factor
        except ValueError:
            number = 0.0
        if not 0 < number < 1e9:
            self.fail(f"{value!r}: expected a time above 0, as 20ms or 0.5s", param, ctx)
        return number


def complete_engines(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Complete an engine's name."""
    return [name for name in ENGINES if name.startswith(begun)]


def as_engine(_ctx: click.Context, _param: click.Parameter, given: str) -> str:
    """Return an engine's name as ledgers have it."""
    return engine_name(given)


def shows_credentials(command: Command) -> Command:
    """Add the options of what a client shows a server; the command gets them as `credentials`."""

    @functools.wraps(command)
    def run(
        *arguments: Any, client_key: Path | None, server_public_key: Path | None, token_file: Path | None, **others: Any
    ) -> Any:
        from imdb_serving.keys import Credentials

        credentials = Credentials(client_key, server_public_key, token_file)
        return command(*arguments, credentials=credentials, **others)

    shown = run
    for name, what in (
        ("--token-file", "Over HTTP: the file of the server's token."),
        ("--server-public-key", "Over ZeroMQ: the server's public key; see imdb-serving keys."),
        ("--client-key", "Over ZeroMQ: this client's secret key; see imdb-serving keys."),
    ):
        shown = click.option(name, type=click.Path(path_type=Path), help=what)(shown)
    return shown  # type: ignore[return-value]


def probe_options(command: Command) -> Command:
    """Add the options that commands share which start one server and probe it."""
    for option in (
        click.option("--outputs", type=click.Path(file_okay=False), default="", help="Default: the project's outputs."),
        click.option("--seed", type=int, default=2020, help="Seed of reviews and arrivals."),
        click.option("--distribution", type=click.Choice(["fixed", "exponential"]), default="fixed", help="simulated."),
        click.option("--service-time-ms", type=float, default=5.0, help="simulated: the mean service time."),
        click.option("--server-threads", type=click.IntRange(min=1, max=1024), default=2, help="Workers."),
        click.option("--engine", default="paddle", shell_complete=complete_engines, help=f"{engines_in_words()}."),
        click.option("--mode", default="rpc", help="rpc, socket, flask, flask-gateway or flask-dev."),
    ):
        command = option(command)
    return command
