"""The group of commands: help that begins with an example, errors in one line, options that commands share."""

from __future__ import annotations

import errno
import functools
import inspect
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from imdb_serving.config import engine_name
from imdb_serving.engines.registry import ENGINES, engines_in_words
from imdb_serving.errors import ServingError
from imdb_serving.packages import extra_of, install

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
        click.option(
            "--engine",
            default="",
            shell_complete=complete_engines,
            help=f"{engines_in_words()}. Default: paddle; of an imported MODEL the first that runs it.",
        ),
        click.option("--mode", default="rpc", help="rpc, socket, flask, flask-gateway or flask-dev."),
    ):
        command = option(command)
    return text_options(command)


def text_options(command: Command) -> Command:
    """Add the options that say which texts are sent."""
    for option in (
        click.option("--label-column", default="", help="The column of --data that has the label."),
        click.option("--text-column", default="", help="The column of --data that has the text."),
        click.option("--data", default="", callback=_resolved, help="A file of texts to send. Default: reviews."),
    ):
        command = option(command)
    return command


def _resolved(_ctx: click.Context, _param: click.Parameter, given: str) -> str:
    return str(Path(given).resolve()) if given else ""


def run_of_file(path: Path) -> dict[str, Any]:
    """Return the parameters of one run of the first server of someone else that a file measures."""
    import msgspec

    from imdb_serving.errors import ConfigError
    from imdb_serving.measurement.parameters import load_sweep

    try:
        return msgspec.structs.asdict(load_sweep(path).foreign_run())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return those options of the present command that were given, and not left at their defaults."""
    from click.core import ParameterSource

    source = click.get_current_context().get_parameter_source
    return {name: value for name, value in options.items() if source(name) is not ParameterSource.DEFAULT}


INTENTS: dict[str, tuple[str, ...]] = {
    "Get ready": ("notebooks", "train", "import", "data", "tune", "doctor", "completion"),
    "Serve": ("serve", "flask", "flask-gateway", "flask-dev", "status", "keys"),
    "Send requests": ("predict", "client", "client-multi", "client-batch", "flask-client"),
    "Measure": ("advise", "probe", "sweep", "ladder", "slo", "growth", "flask-benchmark", "mlperf"),
    "Read what was measured": ("report", "compare", "capacity", "trace", "history", "export", "schema"),
}
"""What one wants to do, and the commands for it."""

SERVERS = ("serve", "flask", "flask-gateway", "flask-dev")

EXAMPLE = "\b\nExample:\n"
SUMMARY_LETTERS = 300


class ExampleCommand(click.Command):
    """A command whose help has an example first."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it. From here on Ctrl-C is an exception, but for servers, which set handlers of their own.

        Until they have, it ends them at once: an exception in the middle of an import may come to nothing.
        """
        if self.name not in SERVERS and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return super().invoke(ctx)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write what the command does in a sentence, an example, and then the rest."""
        text = inspect.cleandoc(self.help or "")
        before, _, example = text.partition(EXAMPLE)
        summary, _, rest = before.partition("\n\n")
        example, _, after = example.partition("\n\n")
        parts = [summary, f"\b\n{example}" if example else "", rest, after]
        for number, part in enumerate(filter(str.strip, parts)):
            formatter.write_paragraph()
            if number == 1 and example:
                formatter.write("  Example:\n")
            with formatter.indentation():
                formatter.write_text(part.strip("\n"))


def command(name: str | None = None) -> Callable[[Callable[..., Any]], ExampleCommand]:
    """Make a function a command of that name, by default the function's, which `CommandGroup` can take."""
    return click.command(name, cls=ExampleCommand)


def _words_of(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory; use fewer workers or smaller batches"
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}{_REMEDIES.get(error.errno or 0, '')}"


_REMEDIES = {
    errno.EMFILE: "; raise `ulimit -n`, or use fewer workers and clients",
    errno.ENFILE: "; the whole machine has too many files open",
    errno.EAGAIN: "; raise `ulimit -u`, or use fewer workers and clients",
    errno.ENOMEM: "; use fewer workers, or smaller batches",
    errno.ENOSPC: "; the result is not complete",
    errno.EPIPE: "; whoever read our output has gone",
}


class CommandGroup(click.Group):
    """A group of commands by purpose. An error that the user can act on is one line and exit code 2."""

    command_class = ExampleCommand

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error that has a type of ours becomes its words."""
        try:
            return super().invoke(ctx)
        except ServingError as error:
            words = f"{type(error).__name__}: {error}"
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if not extra_of(missing):  # a fault of ours, or of a user's code
                raise
            words = (
                f"this needs the package {missing}: {install(missing)}, or [all] for all that sweeps and notebooks use"
            )
        except (OSError, MemoryError) as error:  # the machine's, whatever we were at
            words = _words_of(error)
        with suppress(OSError):  # standard error may be full or closed as well
            click.echo(f"imdb-serving: {words}", err=True)
        return ctx.exit(2)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the commands by what one wants to do, each with its first sentence."""
        for intent, names in INTENTS.items():
            commands = [(name, self.commands[name]) for name in names if name in self.commands]
            with formatter.section(intent):
                formatter.write_dl([(name, command.get_short_help_str(SUMMARY_LETTERS)) for name, command in commands])
