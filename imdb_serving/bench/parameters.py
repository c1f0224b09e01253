"""Parameters: of a sweep (a YAML file) and of one run of the grid notebook, checked before anything starts."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from imdb_serving.config import DEFAULT_TIMEOUT, MAX_TIMEOUT, project_root
from imdb_serving.engines.registry import DISTRIBUTIONS, ENGINES, check_net, engines_for
from imdb_serving.errors import ConfigError, did_you_mean
from imdb_serving.server_process import MODES

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)

_CHOICES = {
    "http_client": ("keep-alive", "curl"),
    "net": ("bow", "cnn", "lstm", "gru"),
    "worker_kind": ("", "thread", "process"),
    "distribution": DISTRIBUTIONS,
}


class _Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What sweep files and notebook runs have in common."""

    engine: str = "paddle"
    net: str = "cnn"
    model: str = ""
    worker_kind: str = ""
    math_threads: int = 1
    client_threads: list[int] = msgspec.field(default_factory=lambda: [1, 2, 4, 8])
    samples: int = 2500
    batch: int = 1
    http_client: str = "keep-alive"
    seed: int = 2020
    timeout: float = DEFAULT_TIMEOUT
    service_time_ms: float = 5.0
    distribution: str = "fixed"

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            check_choice(name, getattr(self, name), known)
        check_choice("engine", self.engine, ENGINES)
        check_net(self.engine, self.net)
        _check_positive(self, "math_threads", "samples", "batch")
        check_counts("client_threads", self.client_threads)
        _check_timeout(self.timeout)
        if not (math.isfinite(self.service_time_ms) and self.service_time_ms >= 0):
            raise ConfigError(f"service_time_ms: must be at least 0, got {self.service_time_ms}")
        if max(self.client_threads) > self.samples:
            raise ConfigError(f"client_threads: {max(self.client_threads)} clients cannot share {self.samples} samples")


class GridParams(_Measured, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of the grid notebook: one server-thread count, all client counts, one round."""

    mode: str = "rpc"
    server_threads: int = 4
    round: int = 1
    sweep: str = "adhoc"
    run: str = ""
    outputs: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, MODES)
        check_counts("server_threads", [self.server_threads])
        _check_names(self.sweep, self.run)


class SweepParams(_Measured, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sweep: every mode and server-thread count with every client count, in `rounds` shuffled passes.

    `also` adds cells that differ in some parameters, each entry a grid of its own. `ladder_rounds` above 0 has the
    overhead ladder measured behind the grid.
    """

    mode: str | list[str] = "rpc"
    server_threads: list[int] = msgspec.field(default_factory=lambda: [1, 2, 4])
    rounds: int = 3
    also: list[dict[str, Any]] = msgspec.field(default_factory=list)
    ladder_rounds: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for mode in self.modes:
            check_choice("mode", mode, MODES)
        if not self.modes or len(set(self.modes)) != len(self.modes):
            raise ConfigError(f"mode: expected different modes, got {self.mode}")
        check_counts("server_threads", self.server_threads)
        if self.rounds < 1:
            raise ConfigError(f"rounds: must be at least 1, got {self.rounds}")
        if self.ladder_rounds < 0:
            raise ConfigError(f"ladder_rounds: must be at least 0, got {self.ladder_rounds}")
        self.parts()

    @property
    def modes(self) -> list[str]:
        """The modes as a list."""
        return [self.mode] if isinstance(self.mode, str) else self.mode

    def parts(self) -> list[SweepParams]:
        """Return this sweep's grids: its own, and one for each entry of `also`."""
        own = msgspec.structs.asdict(self) | {"also": []}
        fixed = {"also", "rounds", "seed", "samples", "ladder_rounds"}
        parts = []
        for number, entry in enumerate(self.also, start=1):
            if common := fixed & entry.keys():
                raise ConfigError(f"also, entry {number}: {sorted(common)[0]} belongs to the whole sweep")
            parts.append(make(SweepParams, own | entry, f"also, entry {number}"))
        return [msgspec.structs.replace(self, also=[]) if self.also else self, *parts]

    def grid(self, mode: str, server_threads: int, round_: int, sweep: str, run: str, outputs: Path) -> GridParams:
        """Return the parameters of one notebook run of this sweep."""
        shared = {name: getattr(self, name) for name in _Measured.__struct_fields__}
        place = {"round": round_, "sweep": sweep, "run": run, "outputs": str(outputs)}
        return GridParams(**shared, **place, mode=mode, server_threads=server_threads)  # type: ignore[arg-type]


class LadderParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of the ladder notebook: `requests` are those of each client in each block."""

    engines: list[str] = msgspec.field(default_factory=lambda: [*engines_for("cnn"), "null"])
    net: str = "cnn"
    model: str = ""
    server_threads: int = 2
    math_threads: int = 1
    rounds: int = 8
    requests: int = 40
    seed: int = 2020
    timeout: float = 30.0
    sweep: str = "ladder"
    run: str = ""
    outputs: str = ""

    def __post_init__(self) -> None:
        for engine in self.engines:
            check_choice("engines", engine, ENGINES)
        check_choice("net", self.net, _CHOICES["net"])
        for engine in self.engines:
            check_net(engine, self.net)
        if not self.engines or len(set(self.engines)) != len(self.engines):
            raise ConfigError(f"engines: expected different engines, got {self.engines}")
        _check_positive(self, "server_threads", "math_threads", "requests")
        _check_rounds(self.rounds)
        _check_timeout(self.timeout)
        _check_names(self.sweep, self.run)


class CompareParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One comparison of our servers with others; the `requests` of a block are shared by its clients."""

    engine: str = "null"
    net: str = "cnn"
    model: str = ""
    workers: int = 2
    client_threads: list[int] = msgspec.field(default_factory=lambda: [1, 8])
    rounds: int = 6
    requests: int = 2500
    seed: int = 2020
    timeout: float = 30.0
    run: str = ""

    def __post_init__(self) -> None:
        check_choice("engine", self.engine, ENGINES)
        check_choice("net", self.net, _CHOICES["net"])
        check_net(self.engine, self.net)
        check_counts("client_threads", self.client_threads)
        _check_positive(self, "workers", "requests")
        if max(*self.client_threads, self.workers) > self.requests:
            raise ConfigError(f"requests: {self.requests} are too few for so many clients")
        _check_rounds(self.rounds)
        _check_timeout(self.timeout)


class GrowthParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measurement of how cost grows: a list of values an axis, all else kept as it is.

    `workers` are of the simulated engine, each with a client; on the other axes the engine is null, with two workers.
    """

    workers: list[int] = msgspec.field(default_factory=lambda: [1, 2, 4, 8, 16, 24, 32, 48])
    clients: list[int] = msgspec.field(default_factory=lambda: [1, 2, 5, 10, 20, 50, 100, 200, 500])
    words: list[int] = msgspec.field(default_factory=lambda: [8, 32, 128, 512, 2000])
    batch: list[int] = msgspec.field(default_factory=lambda: [1, 4, 16, 64, 256])
    service_time_ms: float = 8.0
    seconds: float = 1.0
    rounds: int = 3
    seed: int = 2020
    timeout: float = 60.0
    run: str = ""

    def __post_init__(self) -> None:
        for axis in ("workers", "clients", "words", "batch"):
            check_counts(axis, getattr(self, axis))
        _check_rounds(self.rounds)
        _check_timeout(self.timeout)
        for name in ("service_time_ms", "seconds"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name}: must be above 0, got {getattr(self, name)}")


Params = TypeVar("Params", GridParams, SweepParams, LadderParams, CompareParams, GrowthParams)


def _check_positive(params: msgspec.Struct, *names: str) -> None:
    for name in names:
        if getattr(params, name) < 1:
            raise ConfigError(f"{name}: must be at least 1, got {getattr(params, name)}")


def _check_rounds(rounds: int) -> None:
    if rounds < 2:
        raise ConfigError(f"rounds: an interval needs at least 2, got {rounds}")


def _check_timeout(seconds: float) -> None:
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ConfigError(f"timeout: must be above 0 and at most {MAX_TIMEOUT} seconds, got {seconds}")


def _check_names(sweep: str, run: str) -> None:
    for name, value in (("sweep", sweep), ("run", run or "alone")):
        if not _PLAIN_NAME.fullmatch(value):
            raise ConfigError(f"{name}: must be a plain folder name of letters, digits, . _ and -, got {value!r}")


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """Raise `ConfigError` with the nearest known value unless `value` is one."""
    if value not in known:
        raise ConfigError(f"{name}: unknown value {value!r}{did_you_mean(value, known)}")


def check_counts(name: str, counts: list[int]) -> None:
    """Raise `ConfigError` unless `counts` are different whole numbers of at least 1."""
    if not counts or min(counts) < 1 or len(set(counts)) != len(counts):
        raise ConfigError(f"{name}: expected different whole numbers of at least 1, got {counts}")


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


def load_sweep(path: Path) -> SweepParams:
    """Read a sweep's YAML file; raise `ConfigError` naming the file, the key and what was expected."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected 'name: value' lines, as in params/default.yaml")
    if values.get("engine", "") is None:  # YAML reads the word null as nothing
        values["engine"] = "null"
    return make(SweepParams, values, str(path))


def model_folder(params: _Measured | LadderParams | CompareParams) -> Path:
    """Return where the bundle of these parameters is, or will be once it is trained."""
    return Path(params.model).expanduser() if params.model else project_root() / "outputs" / "models" / params.net
