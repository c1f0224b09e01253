"""Checks that all parameters share, and making checked parameters from plain values. Errors are `ConfigError`.

Each error names the place, the parameter and what was expected.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from imdb_serving.cell import (
    ARRIVALS,
    BEFORE,
    ECHO_MODES,
    FOREIGN,
    LOCAL_MODES,
    PLACEMENTS,
    SERIES,
    SHARED,
    SPREAD,
    TIMED,
)
from imdb_serving.config import MAX_TIMEOUT, at_home, engine_name, project_root
from imdb_serving.engines.registry import DISTRIBUTIONS, ENGINES, check_net, engines_of_imported, facts_of
from imdb_serving.errors import ConfigError, did_you_mean
from imdb_serving.model import CARD, find_server_dir
from imdb_serving.server_process import MODES, MULTIPROCESS_MODES

_FOLDER_NAME = re.compile(r"\w[^/\\\x00-\x1f\x7f]*")
_LONGEST_NAME = 150
"""Bytes of a folder's name; file systems take 255, and files in it are called by it."""

_ADDRESS = re.compile(r"(ray://)?[^\s/:@]+:\d{1,5}")
_PIPELINE = re.compile(r"([A-Za-z_][\w.]*|[^\n]+\.py):[A-Za-z_]\w*")

GRID_MODES = (*MODES, FOREIGN, *ECHO_MODES, *LOCAL_MODES[:2])
"""What a grid measures: our ways of serving, a server of someone else, the limits of transports, and two without a
server to compare with."""

CHOICES: dict[str, Collection[str]] = {
    "http_client": ("keep-alive", "curl"),
    "net": ("bow", "cnn", "lstm", "gru"),
    "worker_kind": ("", "thread", "process"),
    "distribution": DISTRIBUTIONS,
    "arrivals": ARRIVALS,
    "prepro": (TIMED, BEFORE),
    "series": SERIES,
    "placement": PLACEMENTS,
}


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """Refuse a value that is none of the known ones, with the nearest."""
    if value not in known:
        raise ConfigError(f"{name}: unknown value {value!r}{did_you_mean(value, known)}")


def check_engine(params: msgspec.Struct) -> None:
    """Refuse an unknown engine; replace a former name by the present one."""
    name = engine_name(params.engine)  # type: ignore[attr-defined] # all that call this have one
    msgspec.structs.force_setattr(params, "engine", name)
    if name != "":
        check_choice("engine", name, ENGINES)


MOST: dict[str, int] = {
    "server_processes": 1024, "processes": 8,
    "server_threads": 1024, "client_threads": 1024, "server_nodes": 1024, "client_nodes": 1024, "math_threads": 1024,
    "node_cores": 4096, "workers": 1024, "clients": 10_000, "words": 1 << 16, "batch": 1 << 20,
    "samples": 10_000_000, "requests": 10_000_000, "passes": 1_000_000,
    "rounds": 1000, "extra_rounds": 1000, "ladder_rounds": 1000,
}  # fmt: skip
"""The largest number that each parameter takes: more than any machine or sweep has use for."""

MAX_CELLS = 1_000_000


def check_most(name: str, value: int) -> None:
    """Refuse a number beyond what its parameter takes."""
    if value > MOST[name]:
        raise ConfigError(f"{name}: must be at most {MOST[name]:,}, got {value:,}")


def check_counts(name: str, counts: list[int]) -> None:
    """Refuse anything but different whole numbers of at least 1."""
    if not counts or min(counts) < 1 or len(set(counts)) != len(counts):
        raise ConfigError(f"{name}: expected different whole numbers of at least 1, got {counts}")
    check_most(name, max(counts))


def check_processes(mode: str, kind: str, threads: int, processes: int) -> None:
    """Refuse processes that a server cannot have: workers that are threads are in at most as many as there are."""
    if processes > 1 and (mode not in MULTIPROCESS_MODES or kind != "thread"):
        modes = ", ".join(MULTIPROCESS_MODES)
        raise ConfigError(
            f"server_processes: {processes} are for workers that are threads, in the modes {modes}; "
            f"got {mode} with workers of the kind {kind}"
        )
    if processes > threads:
        raise ConfigError(f"server_processes: {processes} need as many server threads, got {threads}")


def check_rates(arrivals: str, rates: list[float]) -> None:
    """Refuse rates where arrivals have none, and none where they need some."""
    timed = arrivals in {"poisson", "constant"}
    if timed and not rates:
        raise ConfigError(f"rates: {arrivals} arrivals need the requests a second to offer, for example [500, 1000]")
    if rates and not timed:
        raise ConfigError(f"rates: {arrivals} arrivals have no rate; set arrivals to poisson or constant")
    if len(set(rates)) != len(rates) or not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise ConfigError(f"rates: expected different numbers above 0, got {rates}")


def check_positive(params: msgspec.Struct, *names: str) -> None:
    """Refuse numbers below 1."""
    for name in names:
        if getattr(params, name) < 1:
            raise ConfigError(f"{name}: must be at least 1, got {getattr(params, name)}")
        check_most(name, getattr(params, name))


def check_rounds(rounds: int) -> None:
    """Refuse fewer rounds than an interval needs."""
    if rounds < 2:
        raise ConfigError(f"rounds: an interval needs at least 2, got {rounds}")
    check_most("rounds", rounds)


def check_timeout(seconds: float) -> None:
    """Refuse a deadline that no server would take."""
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ConfigError(f"timeout: must be above 0 and at most {MAX_TIMEOUT} seconds, got {seconds}")


def check_names(sweep: str, run: str) -> None:
    """Refuse names that cannot be a folder's, or would be another folder's."""
    for name, value in (("sweep", sweep), ("run", run or "alone")):
        if not _FOLDER_NAME.fullmatch(value) or len(value.encode("utf-8", "replace")) > _LONGEST_NAME:
            raise ConfigError(
                f"{name}: must be a folder's name of at most {_LONGEST_NAME} bytes that begins with a letter or digit "
                f"and has no slash, got {value!r}"
            )


LOCAL, AUTO = "local", "auto"


def check_cluster(value: str) -> None:
    """Refuse a value that is neither `local`, nor `auto`, nor a cluster's address."""
    if value not in {LOCAL, AUTO} and not _ADDRESS.fullmatch(value):
        raise ConfigError(f"cluster: expected local, auto, ray://HOST:PORT or HOST:PORT, got {value!r}")


def check_placement(cluster: str, placement: str, server_nodes: int, client_nodes: int) -> None:
    """Refuse nodes without a cluster, and counts that a placement does not allow."""
    if server_nodes < 1:
        raise ConfigError(f"server_nodes: must be at least 1, got {server_nodes}")
    if cluster == LOCAL and (placement != SHARED or server_nodes > 1):
        what = f"placement {placement}" if placement != SHARED else f"{server_nodes} server nodes"
        raise ConfigError(f"{what}: there is one machine; set cluster to auto or to an address (docs/cluster.md)")
    if placement == SHARED and server_nodes > 1:
        raise ConfigError(f"server_nodes: with placement shared there is one, got {server_nodes}; use apart or spread")
    if placement == SPREAD and client_nodes < 2:
        raise ConfigError(f"client_nodes: placement spread needs at least 2, got {client_nodes}; or use apart")


def check_pipeline(value: str) -> None:
    """Refuse what does not name a function."""
    if value and not _PIPELINE.fullmatch(value):
        raise ConfigError(f"pipeline: expected MODULE:FUNCTION or FILE.py:FUNCTION, got {value!r}")


def model_folder(params: Any) -> Path:
    """Return where the bundle of parameters with `model` and `net` is, or will be once it is trained.

    A relative path is of the present folder, or else of the project's: notebooks run in another than their sweep.
    """
    if not params.model:
        return project_root() / "outputs" / "models" / str(params.net)
    named = at_home(params.model)
    return named if named.exists() else project_root() / named


def model_there(params: Any) -> Path | None:
    """Return the folder of the model, or None where there is none: engines without one accept any word ids."""
    folder = model_folder(params)
    return folder if (find_server_dir(folder) / CARD).is_file() else None


def engines_there(params: Any) -> list[str]:
    """Return the engines that run a model that was imported, the best first; none where no such model is named."""
    folder = model_there(params) if params.model else None
    return engines_of_imported(folder) if folder else []


def check_runs(params: Any, engine: str) -> None:
    """Refuse an engine that does not run the model that was imported, or the net that is trained."""
    runs = engines_there(params)
    if not runs:
        check_net(engine, params.net)
    elif facts_of(engine).needs_model and engine not in runs:
        raise ConfigError(f"engine: {engine} does not run {params.model}; use another ({', '.join(runs)})")


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
    """Return a value as a parameter of this type is written: `{"A": "1"}` is a mapping."""
    if get_origin(hint) is not dict or not isinstance(value, str):
        return _read_plain(hint, value)
    try:
        found = json.loads(value or "{}")
    except ValueError:
        return value
    return {name: str(one) for name, one in found.items()} if isinstance(found, dict) else value


def _read_plain(hint: Any, value: Any) -> Any:
    """Return a value of another type as it is written: `1,2` and `[1, 2]` as a list, 2026 as a text."""
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
