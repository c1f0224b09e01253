"""The feed and fetch variables of a served model, in the text format Paddle Serving uses.

The schema below restates the public message `GeneralModelConfig`; parsing and printing are protobuf's own, so any
conf that Paddle Serving reads is read here too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imdb_serving.errors import BundleError, did_you_mean
from imdb_serving.protocol.protobuf import Field, message_classes
from imdb_serving.text import formats

INT64, FLOAT32, STRING = 0, 1, 20


@dataclass(frozen=True, slots=True)
class Variable:
    """One feed or fetch variable: its name in the model, the alias users say, ragged or not, type and shape."""

    name: str
    alias_name: str
    is_lod_tensor: bool
    type: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelConf:
    """The variables a model is fed and those that can be fetched from it."""

    feed: tuple[Variable, ...]
    fetch: tuple[Variable, ...]

    @property
    def feed_names(self) -> tuple[str, ...]:
        """The aliases of the feed variables."""
        return tuple(variable.alias_name for variable in self.feed)

    @property
    def fetch_names(self) -> tuple[str, ...]:
        """The aliases of the fetch variables."""
        return tuple(variable.alias_name for variable in self.fetch)

    def require_fetch(self, name: str, path: Path) -> None:
        """Raise `BundleError` when the conf has no fetch variable of that alias."""
        if name not in self.fetch_names:
            raise BundleError(f"{path} has no fetch variable {name!r}{did_you_mean(name, self.fetch_names)}")


IMDB_CONF = ModelConf(
    feed=(
        Variable("words", "words", True, INT64, (-1,)),
        Variable("label", "label", False, INT64, (1,)),
    ),
    fetch=(
        Variable("mean_0.tmp_0", "cost", False, FLOAT32, (1,)),
        Variable("accuracy_0.tmp_0", "acc", False, FLOAT32, (1,)),
        Variable("fc_1.tmp_2", "prediction", False, FLOAT32, (2,)),
    ),
)
"""The conf of the published IMDB models."""


def _variable_fields(kind: str) -> tuple[Field, ...]:
    return (
        ("name", 1, "string"),
        ("alias_name", 2, "string"),
        ("is_lod_tensor", 3, "bool"),
        (kind, 4, "int32"),
        ("shape", 5, "int32*"),
    )


_MESSAGES: dict[str, tuple[Field, ...]] = {
    "FeedVar": _variable_fields("feed_type"),
    "FetchVar": _variable_fields("fetch_type"),
    "GeneralModelConfig": (("feed_var", 2, "FeedVar*"), ("fetch_var", 3, "FetchVar*")),
}


@functools.cache
def _message_class() -> Any:
    return message_classes("paddle_serving", _MESSAGES, syntax="proto2").GeneralModelConfig


def load_conf(path: Path) -> ModelConf:
    """Read a conf; raise `BundleError` naming the file when it is missing, malformed or has no variables."""
    from google.protobuf import text_format  # noqa: PLC0415 - slow, and only models need it

    try:
        # Fields this tool does not use (a graph, newer additions) are no reason to refuse somebody's conf.
        parsed = text_format.Parse(formats.decode(path.read_bytes()), _message_class()(), allow_unknown_field=True)
    except (OSError, UnicodeDecodeError, RecursionError, text_format.ParseError) as error:
        raise BundleError(f"cannot read the model conf {path}: {error}") from error
    if not parsed.feed_var or not parsed.fetch_var:
        raise BundleError(f"{path} names no feed_var or no fetch_var; expected Paddle Serving's client conf format")
    return ModelConf(_variables(parsed.feed_var, "feed_type"), _variables(parsed.fetch_var, "fetch_type"))


def _variables(entries: Sequence[Any], kind: str) -> tuple[Variable, ...]:
    return tuple(
        Variable(
            entry.name, entry.alias_name or entry.name, entry.is_lod_tensor, getattr(entry, kind), tuple(entry.shape)
        )
        for entry in entries
    )


def save_conf(conf: ModelConf, path: Path) -> None:
    """Write a conf in protobuf's text format."""
    from google.protobuf import text_format  # noqa: PLC0415 - as above

    message = _message_class()()
    for variables, entries, kind in (
        (conf.feed, message.feed_var, "feed_type"),
        (conf.fetch, message.fetch_var, "fetch_type"),
    ):
        for variable in variables:
            entry = entries.add(
                name=variable.name, alias_name=variable.alias_name, is_lod_tensor=variable.is_lod_tensor
            )
            setattr(entry, kind, variable.type)
            entry.shape.extend(variable.shape)
    path.write_text(text_format.MessageToString(message), encoding="utf-8")
