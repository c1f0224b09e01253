"""From a YAML file's or a notebook's values to parameters, with errors that name the place. Reads one file."""

from __future__ import annotations

from pathlib import Path

import yaml

from imdb_serving.bench.parameters.grids import GridParams, SweepParams
from imdb_serving.bench.parameters.making import make
from imdb_serving.bench.parameters.others import LadderParams, OthersParams
from imdb_serving.config import at_home, project_root
from imdb_serving.errors import ConfigError


def load_sweep(path: Path, cluster: str = "") -> SweepParams:
    """Read a sweep's YAML file, for another cluster than it names if one is given.

    Raises `ConfigError` naming the file, the key and what was expected.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ConfigError(f"cannot read {path}: it is nested too deeply") from None
    except (OSError, ValueError, OverflowError, yaml.YAMLError) as error:  # a date that is none is a ValueError
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected 'name: value' lines, as in params/default.yaml")
    if cluster:
        values["cluster"] = cluster
    also = values.get("also")
    for entry in [values, *(also if isinstance(also, list) else [])]:
        if isinstance(entry, dict) and entry.get("engine", "") is None:
            entry["engine"] = "null"  # YAML reads the word null as nothing
    return make(SweepParams, values, str(path))


def model_folder(params: GridParams | SweepParams | LadderParams | OthersParams) -> Path:
    """Return where the bundle of these parameters is, or will be once it is trained."""
    return at_home(params.model) if params.model else project_root() / "outputs" / "models" / params.net
