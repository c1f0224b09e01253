"""The group of commands: help that begins with an example, and errors as one line."""

from __future__ import annotations

import errno
import inspect
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from imdb_serving.errors import ServingError

INTENTS: dict[str, tuple[str, ...]] = {
    "Get ready": ("train", "data", "tune", "doctor", "completion"),
    "Serve": ("serve", "flask", "flask-gateway", "flask-dev", "status", "keys"),
    "Send requests": ("client", "client-multi", "client-batch", "flask-client"),
    "Measure": ("sweep", "ladder", "slo", "growth", "bench", "flask-benchmark", "mlperf"),
    "Read what was measured": ("report", "compare", "capacity", "trace"),
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
