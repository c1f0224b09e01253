"""Templates of a command, its environment and requests, in Jinja2's sandbox. Owns what of them must not be shown."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from imdb_serving.errors import ConfigError, did_you_mean

ENV = "env"
"""Stands for the environment of this process: `{{ env.TOKEN }}`."""


class Secrets:
    """The environment as templates read it. What was read is remembered, so that it can be hidden."""

    def __init__(self) -> None:
        self.values: set[str] = set()

    def __getattr__(self, name: str) -> str:
        return self[name]

    def __getitem__(self, name: str) -> str:
        value = os.environ.get(name)
        if value is None:
            raise ConfigError(f"{ENV}.{name}: there is no such environment variable; export {name}=... first")
        if value:
            self.values.add(value)
        return value


def hide(text: str, values: Collection[str]) -> str:
    """Return a text in which each of these values is `***`."""
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "***")
    return text


_jinja = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
_jinja.filters["quote"] = lambda value: shlex.quote(str(value))


class TextTemplate:
    """One template: what it says and which names it uses. `place` is where it stands, for errors.

    >>> TextTemplate("--workers {{ server_threads }}", "server.command", {"server_threads"}).render(server_threads=2)
    '--workers 2'
    """

    def __init__(self, source: str, place: str, known: Collection[str]) -> None:
        """Compile it; raise `ConfigError` for what is no template, and for names that are not known."""
        self.place = place
        try:
            tree = _jinja.parse(source)
            self._template: Template = _jinja.from_string(source)
        except TemplateSyntaxError as error:
            raise ConfigError(f"{place}: {error.message} (line {error.lineno})") from None
        except TemplateError as error:  # an unknown filter, say
            raise ConfigError(f"{place}: {error}") from None
        self.names = frozenset(meta.find_undeclared_variables(tree))
        if unknown := sorted(self.names - {*known, ENV}):
            raise ConfigError(f"{place}: unknown name {unknown[0]!r}{did_you_mean(unknown[0], [*known, ENV])}")

    def render(self, /, **values: Any) -> str:
        """Return the text; raise `ConfigError` for what cannot be made."""
        try:
            return self._template.render(**values)
        except ConfigError:
            raise
        except Exception as error:  # whatever its expressions raise
            raise ConfigError(f"{self.place}: {type(error).__name__}: {error}") from error


def render_all(
    texts: Mapping[str, str], place: str, values: Mapping[str, Any], known: Collection[str]
) -> dict[str, str]:
    """Return every value of a mapping, rendered."""
    return {name: TextTemplate(text, f"{place}.{name}", known).render(**values) for name, text in texts.items()}
