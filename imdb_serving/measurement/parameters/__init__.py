"""Parameters of sweeps, notebook runs and benchmarks, checked before anything starts, and the reader of their files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from imdb_serving.errors import ConfigError
from imdb_serving.measurement.parameters.checks import (
    AUTO,
    LOCAL,
    engines_there,
    from_notebook,
    make,
    model_folder,
    model_there,
)
from imdb_serving.measurement.parameters.foreign import unfold
from imdb_serving.measurement.parameters.kinds import GridParams, LadderParams, ScalingParams, SweepParams
from imdb_serving.text import formats

__all__ = [
    "GridParams",
    "LadderParams",
    "ScalingParams",
    "SweepParams",
    "engines_there",
    "from_notebook",
    "load_sweep",
    "make",
    "model_folder",
    "model_there",
]

ON_CLUSTER = "on_cluster"


MERGE, INT, FLOAT, NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("merge", "int", "float", "null"))
_PLAIN_NUMBER = re.compile(
    r"[-+]?((0|[1-9][0-9_]*)(\.[0-9_]*)?|\.[0-9_]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)", re.IGNORECASE
)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses what means something other than what is written.

    Of a key that appears twice the last one would count; `010` would be 8, and `1:30` would be 90. A name without
    a value would be the word null, which is an engine's former name.
    """

    def construct_number(self, node: Any) -> int | float:
        """Return a number that is written as one."""
        value: int | float = self.construct_yaml_int(node) if node.tag == INT else self.construct_yaml_float(node)
        if not _PLAIN_NUMBER.fullmatch(node.value):
            problem = f"YAML reads {node.value!r} as {value:g}; write that, or quote it"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} appears twice", key.start_mark)
            if (value.tag, value.value) == (NULL, "") and key.value != ON_CLUSTER:  # all of whose lines may be comments
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} has no value", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for tag in (INT, FLOAT):
    _Loader.add_constructor(tag, _Loader.construct_number)


def load_sweep(path: Path, cluster: str = "", more: Sequence[str] = ()) -> SweepParams:
    """Read a sweep's YAML file, for another cluster than it names if one is given, with `more` entries of its `also`.

    On a cluster its section `on_cluster` overrules the rest; what is wrong there is told on one machine as well.

    Raises `ConfigError` naming the file, the key and what was expected.
    """
    try:
        values = yaml.load(formats.decode(path.read_bytes()), _Loader)  # noqa: S506 - it is a safe one
    except RecursionError:
        raise ConfigError(f"cannot read {path}: it is nested too deeply") from None
    except (OSError, ValueError, OverflowError, yaml.YAMLError) as error:  # a date that is none is a ValueError
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected 'name: value' lines, as in params/default.yaml")
    values = unfold(values, str(path))
    section = values.pop(ON_CLUSTER, None) or {}
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: {ON_CLUSTER}: expected 'name: value' lines, indented")
    if cluster:
        values["cluster"] = cluster
    if more:
        values["also"] = [*(values.get("also") or []), *map(_entry, more)]
    also = values["also"] = _unfolded(values.get("also", []), str(path))
    for entry in [values, section, *(also if isinstance(also, list) else [])]:
        if isinstance(entry, dict) and entry.get("engine", "") is None:
            entry["engine"] = "none"  # YAML reads the word null, a former name, as nothing
    there = values | section
    on_cluster = make(SweepParams, there | {"cluster": there.get("cluster", AUTO)}, str(path)) if section else None
    if on_cluster and values.get("cluster", LOCAL) != LOCAL:
        return on_cluster
    return make(SweepParams, values, str(path))


def _unfolded(also: Any, where: str) -> Any:
    """Return the entries of `also` without sections; what is no list of such is left for the checks."""
    if not isinstance(also, list):
        return also
    places = [f"{where}: also, entry {number}" for number in range(1, len(also) + 1)]
    return [unfold(one, place) if isinstance(one, dict) else one for one, place in zip(also, places, strict=True)]


def _entry(words: str) -> dict[str, Any]:
    """Read an entry of `also` that was given by itself."""
    try:
        entry = yaml.load(words, _Loader)  # noqa: S506 - it is a safe one
    except (ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read --also {words!r}: {error}") from error
    if not isinstance(entry, dict):
        raise ConfigError(
            f"--also: expected names and values as in '{{mode: rpc, server_threads: [8]}}', got {words!r}"
        )
    return entry
