"""From plain values to checked parameters, with errors that name the place, the parameter and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from imdb_serving.errors import ConfigError, did_you_mean

Params = TypeVar("Params", bound=msgspec.Struct)


def make(kind: type[Params], values: Mapping[str, Any], where: str) -> Params:
    """Check `values` against a parameter type; raise `ConfigError` with the nearest valid name or the right type."""
    for name in values:
        if name not in kind.__struct_fields__:
            raise ConfigError(f"{where}: unknown parameter {name!r}{did_you_mean(str(name), kind.__struct_fields__)}")
    try:
        return msgspec.convert(dict(values), kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):  # msgspec wraps what __post_init__ raises
            raise ConfigError(f"{where}: {error.__cause__}") from error
        why, _, place = str(error).partition(" - at `$.")
        raise ConfigError(f"{where}: {place.rstrip('`') or 'the file'}: {why}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
