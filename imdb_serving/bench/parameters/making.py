"""From plain values to checked parameters, with errors that name the place, the parameter and what was expected."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from imdb_serving.errors import ConfigError, did_you_mean

Params = TypeVar("Params", bound=msgspec.Struct)


def from_notebook(kind: type[Params], where: str, /, **values: Any) -> Params:
    """Check a notebook's values as `make` does, once each is read as its parameter's type.

    papermill passes what `-p` is given as the number, truth value or text that it looks like, and a list as text.
    """
    hints = get_type_hints(kind)
    if values.get("engine", "") is None:
        values["engine"] = "none"  # as `-y "engine: null"` has it
    read = {name: _read(hints[name], value) if name in hints else value for name, value in values.items()}
    return make(kind, read, where, strict=False)


def _read(hint: Any, value: Any) -> Any:
    """Return a value as a parameter of this type is written: `1,2` and `[1, 2]` as a list, 2026 as a text."""
    if hasattr(value, "item"):
        value = value.item()  # numpy's numbers
    kinds = get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)
    item = next((get_args(kind)[0] for kind in kinds if get_origin(kind) is list), None)
    if item is None:
        return ("" if value is None else str(value)) if hint is str else value
    if isinstance(value, str):
        if str in kinds and not value.startswith("[") and "," not in value:
            return value
        value = _split(value)
    elif isinstance(value, int | float):
        value = [value]
    return [_read(item, "none" if one is None else one) for one in value] if isinstance(value, list | tuple) else value


def _split(text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return [part.strip(" \"'") for part in text.strip().strip("[]()").split(",")]
    return found if isinstance(found, list) else [found]


def make(kind: type[Params], values: Mapping[str, Any], where: str, *, strict: bool = True) -> Params:
    """Check `values` against a parameter type; raise `ConfigError` with the nearest valid name or the right type.

    Unless `strict`, numbers may be written as text.
    """
    for name in values:
        if name not in kind.__struct_fields__:
            raise ConfigError(f"{where}: unknown parameter {name!r}{did_you_mean(str(name), kind.__struct_fields__)}")
    try:
        return msgspec.convert(dict(values), kind, strict=strict)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):  # msgspec wraps what __post_init__ raises
            raise ConfigError(f"{where}: {error.__cause__}") from error
        why, _, place = str(error).partition(" - at `$.")
        raise ConfigError(f"{where}: {place.rstrip('`') or 'the file'}: {why}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
