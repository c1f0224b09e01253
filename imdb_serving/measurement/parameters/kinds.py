"""Parameters of a sweep (a YAML file), of one run of a notebook, of benchmarks; and the cells that they stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from imdb_serving.analysis.selection import Selection, read_selection
from imdb_serving.cell import BEFORE, CLOSED, ECHO_MODES, FOREIGN, GRID, LOCAL_MODES, SHARED, SPREAD, TIMED, Cell
from imdb_serving.config import DEFAULT_TIMEOUT, at_home, engine_name
from imdb_serving.engines.registry import ENGINES, EngineSpec, engines_for, facts_of
from imdb_serving.errors import ConfigError
from imdb_serving.measurement.parameters.checks import (
    CHOICES,
    GRID_MODES,
    LOCAL,
    MAX_CELLS,
    check_choice,
    check_cluster,
    check_counts,
    check_engine,
    check_most,
    check_names,
    check_pipeline,
    check_placement,
    check_positive,
    check_processes,
    check_rates,
    check_rounds,
    check_runs,
    check_timeout,
    engines_there,
    make,
    model_folder,
    model_there,
)
from imdb_serving.measurement.parameters.foreign import FIELDS, ForeignFields, check_foreign
from imdb_serving.measurement.parameters.texts import OF_TEXTS, TextFields
from imdb_serving.server_process import MULTIPROCESS_MODES, ServerSpec


def counts(value: int | list[int]) -> list[int]:
    """Return one count or several as a list."""
    return [value] if isinstance(value, int) else value


class LadderParams(TextFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of the ladder notebook: `requests` are those of each client in each block.

    Left out, `engines` are those that run the model, and `none`.
    `servers` are those of others to measure beside, each as its parameters' whole names with its `engine`.
    """

    engines: list[str] = msgspec.field(default_factory=list)
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
    servers: list[dict[str, Any]] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        default = [*(engines_there(self) or engines_for(self.net)), "none"]
        msgspec.structs.force_setattr(self, "engines", [engine_name(engine) for engine in self.engines or default])
        for engine in self.engines:
            check_choice("engines", engine, ENGINES)
        check_choice("net", self.net, CHOICES["net"])
        for engine in self.engines:
            check_runs(self, engine)
        if not self.engines or len(set(self.engines)) != len(self.engines):
            raise ConfigError(f"engines: expected different engines, got {self.engines}")
        check_positive(self, "server_threads", "math_threads", "requests")
        self.check_texts()
        check_rounds(self.rounds)
        check_timeout(self.timeout)
        check_names(self.sweep, self.run)
        for values in self.servers:
            if unknown := values.keys() - {*FIELDS, "engine"}:
                raise ConfigError(f"servers: unknown parameter {min(unknown)!r}")
            if not values.get("engine"):
                raise ConfigError("servers: name the `engine` of ours that each of them runs")


class ScalingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measurement of how cost grows: a list of values an axis, all else kept as it is.

    `workers` are of the simulated engine, each with a client, as are eight in so many `processes`; on the other axes
    the engine is `none`, with two workers.
    """

    workers: list[int] = msgspec.field(default_factory=lambda: [1, 2, 4, 8, 16, 24, 32, 48])
    processes: list[int] = msgspec.field(default_factory=lambda: [1, 2, 4, 8])
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
        for axis in ("workers", "processes", "clients", "words", "batch"):
            check_counts(axis, getattr(self, axis))
        check_rounds(self.rounds)
        check_timeout(self.timeout)
        for name in ("service_time_ms", "seconds"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name}: must be above 0, got {getattr(self, name)}")


OURS = "paddle"
"""The engine of our servers where none is named; what a server of someone else runs is not known then."""


class _Measured(ForeignFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What sweep files and notebook runs have in common."""

    engine: str = ""
    net: str = "cnn"
    model: str = ""
    worker_kind: str = ""
    math_threads: int | list[int] = 1
    client_threads: list[int] = msgspec.field(default_factory=lambda: [1, 2, 4, 8])
    samples: int = 2500
    passes: int = 1
    batch: int = 1
    prepro: str = TIMED
    http_client: str = "keep-alive"
    seed: int = 2020
    timeout: float = DEFAULT_TIMEOUT
    service_time_ms: float = 5.0
    distribution: str = "fixed"
    arrivals: str = CLOSED
    rates: list[float] = msgspec.field(default_factory=list)
    pipeline: str = ""
    cluster: str = LOCAL
    placement: str = SHARED
    client_nodes: int = 2
    node_cores: int = 1

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if hasattr(self, name):
                check_choice(name, getattr(self, name), known)
        if not self.engine and set(self.modes) != {FOREIGN}:
            msgspec.structs.force_setattr(self, "engine", next(iter(engines_there(self)), OURS))
        check_engine(self)
        check_runs(self, self.engine)
        check_counts("math_threads", counts(self.math_threads))
        check_positive(self, "samples", "passes", "batch", "node_cores")
        check_counts("client_threads", self.client_threads)
        check_timeout(self.timeout)
        check_rates(self.arrivals, self.rates)
        check_pipeline(self.pipeline)
        self.check_texts()
        check_cluster(self.cluster)
        if not (math.isfinite(self.service_time_ms) and self.service_time_ms >= 0):
            raise ConfigError(f"service_time_ms: must be at least 0, got {self.service_time_ms}")
        if max(self.client_threads) > self.samples:
            raise ConfigError(f"client_threads: {max(self.client_threads)} clients cannot share {self.samples} samples")

    @property
    def modes(self) -> list[str]:
        """The modes as a list."""
        mode: str | list[str] = self.mode  # type: ignore[attr-defined] # both that follow have it
        return [mode] if isinstance(mode, str) else mode

    def check_foreign(self, **varied: int | list[int]) -> None:
        """Refuse what cannot be measured of a server of someone else, if there is any, and one that nobody measures."""
        if FOREIGN not in self.modes:
            return
        check_foreign(self, {name: counts(value) for name, value in varied.items()}, self.batch)
        for name, usual in (("cluster", LOCAL), ("http_client", "keep-alive"), ("worker_kind", ""), ("pipeline", "")):
            if getattr(self, name) != usual:
                raise ConfigError(f"{name}: mode {FOREIGN} has none of it; leave it out, got {getattr(self, name)!r}")

    @property
    def kind(self) -> str:
        """The kind of the workers: as given, or the one the engine runs best in."""
        return self.worker_kind or facts_of(self.engine).worker_kind


class GridParams(_Measured, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of the grid notebook: one server-thread count, all client counts, one round.

    `cluster` says on whose machines (docs/cluster.md), `placement` where servers and clients stand there: each of the
    `server_nodes` has `server_threads` workers. `client_nodes` count for the placement `spread` alone; a node with less
    than `node_cores` is not used.
    """

    mode: str = "rpc"
    math_threads: int = 1
    server_threads: int = 4
    server_processes: int = 1
    server_nodes: int = 1
    round: int = 1
    series: str = GRID
    sweep: str = "adhoc"
    run: str = ""
    outputs: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, GRID_MODES)
        if self.mode in ECHO_MODES:
            msgspec.structs.force_setattr(self, "engine", "")
            if self.batch > 1:
                raise ConfigError(f"batch: an echo gets one review a request, got {self.batch}")
        check_counts("server_threads", [self.server_threads])
        check_counts("server_processes", [self.server_processes])
        check_processes(self.mode, self.kind, self.server_threads, self.server_processes)
        check_names(self.sweep, self.run)
        check_placement(self.cluster, self.placement, self.server_nodes, self.client_nodes)
        self.check_foreign()
        if self.has_server() and self.mode != FOREIGN:
            raise ConfigError(f"server: a command or URL is for mode {FOREIGN}; got mode {self.mode}")

    @property
    def server(self) -> ServerSpec:
        """The server that this run measures; without a server, the engine and the model of its clients."""
        engine = EngineSpec(self.engine, self.math_threads, self.service_time_ms, self.distribution)  # type: ignore[arg-type]
        # A stand-in reads requests as a model that is named does.
        model = model_folder(self) if engine.facts.needs_model else model_there(self) if self.model else None
        kind, processes = self.worker_kind, self.server_processes
        return ServerSpec(self.mode, engine, model, self.server_threads, kind, self.pipeline, processes)

    @property
    def nodes(self) -> tuple[int, int]:
        """The number of cluster nodes with servers, and of those with clients only."""
        if self.placement == SHARED or self.mode in LOCAL_MODES:
            return 1, 0
        return self.server_nodes, self.client_nodes if self.placement == SPREAD else 1

    def cells(self) -> list[Cell]:
        """Return the cells of this run: a client count each, and in an open loop a rate each too."""
        return [self.cell(clients, rate) for clients in self.client_threads for rate in self.rates or [0.0]]

    def cell(self, clients: int, rate: float = 0.0) -> Cell:
        """Return the cell of one client count."""
        facts, local, foreign = facts_of(self.engine), self.mode in LOCAL_MODES, self.mode == FOREIGN
        echo = self.mode in ECHO_MODES
        return Cell(
            series=self.series,
            mode=self.mode,
            server=self.server_label if foreign else "",
            engine=self.engine,
            net=self.net if facts.needs_model and not engines_there(self) else "",
            model=Path(self.model).name if facts.needs_model else "",
            server_threads=clients if local else 1 if echo else self.server_threads,
            server_processes=self.server_processes,
            client_threads=clients,
            batch=self.batch,
            prepro=BEFORE if foreign else self.prepro,
            arrivals=self.arrivals,
            rate=rate,
            client_kind=self.http_client,
            worker_kind="" if local or foreign or echo else self.kind,
            math_threads=self.math_threads,
            service=f"{self.service_time_ms:g} ms, {self.distribution}" if facts.timed else "",
            pipeline=self.pipeline,
            endpoint="" if local else self._transport,
            samples=self.samples,
            passes=self.passes,
            **({} if self.cluster == LOCAL else self._placement()),
        )

    @property
    def _transport(self) -> str:
        has_tls = self.mode == FOREIGN and self.server_url.startswith(("https:", "grpcs:"))
        return "https" if has_tls else "tcp"

    def _placement(self) -> dict[str, Any]:
        servers, clients = self.nodes
        return {
            "placement": self.placement if clients else SHARED,
            "server_nodes": servers,
            "client_nodes": clients,
        }


_NO_SERVER = ForeignFields()


class Axes(NamedTuple):
    """What one grid run of a sweep has of each of its axes, clients aside."""

    mode: str
    server_threads: int
    server_nodes: int
    server_processes: int = 1
    math_threads: int = 1


class SweepParams(_Measured, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sweep: every mode, server-thread and server-node count with every client count, in `rounds` shuffled passes.

    A count of `server_processes` is measured where mode and workers can have it, and there are as many server threads;
    elsewhere a server is one process. Of several `math_threads` each is measured with the engines that can have them,
    the first with the others. Where noise leaves cells unstable or short of valid rounds, up to `extra_rounds`
    more of all cells are measured. `also` adds cells that differ in some parameters, each entry a grid of its own.
    `ladder_rounds` above 0 has the overhead ladder measured behind the grid. `twin` has one grid run of every round
    measured twice, the A/A pair: what the two differ by is noise. `select` is what a cell is chosen by: `throughput`,
    `efficiency`, the least CPU time a request within 10 % of the best rate, or `p99: 20ms`, the most throughput whose
    p99 is shown to hold that. With `search` not all cells are measured in `rounds` rounds, but in up to twice as many
    those that could still be the answer, about a third of the cell rounds.
    """

    mode: str | list[str] = "rpc"
    server_threads: list[int] = msgspec.field(default_factory=lambda: [1, 2, 4])
    server_processes: list[int] = msgspec.field(default_factory=lambda: [1])
    server_nodes: list[int] = msgspec.field(default_factory=lambda: [1])
    rounds: int = 3
    extra_rounds: int = 1
    also: list[dict[str, Any]] = msgspec.field(default_factory=list)
    ladder_rounds: int = 0
    twin: bool = True
    select: str | dict[str, Any] = "throughput"
    search: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for mode in self.modes:
            check_choice("mode", mode, GRID_MODES)
        if not self.modes or len(set(self.modes)) != len(self.modes):
            raise ConfigError(f"mode: expected different modes, got {self.mode}")
        check_counts("server_threads", self.server_threads)
        check_counts("server_nodes", self.server_nodes)
        check_counts("server_processes", self.server_processes)
        mode = next((mode for mode in self.modes if mode in MULTIPROCESS_MODES), self.modes[0])
        check_processes(mode, self.kind, max(self.server_threads), max(self.server_processes))
        self.check_foreign(server_threads=self.server_threads, math_threads=self.math_threads)
        check_placement(self.cluster, self.placement, max(self.server_nodes), self.client_nodes)
        check_positive(self, "rounds")
        read_selection(self.select)
        if self.search and any(part.arrivals != CLOSED for part in self.parts()):
            raise ConfigError("search: it compares closed loops; leave it out, or set arrivals to closed")
        for name in ("ladder_rounds", "extra_rounds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: must be at least 0, got {getattr(self, name)}")
            check_most(name, getattr(self, name))
        if self.ladder_rounds == 1:
            raise ConfigError("ladder_rounds: an interval needs at least 2, got 1; or 0 for no ladder")
        cells = self.rounds * sum(len(part.client_threads) * max(1, len(part.rates)) for part, _ in self.every_grid())
        if cells > MAX_CELLS:
            raise ConfigError(
                f"rounds: {cells:,} measurements of cells in all, at most {MAX_CELLS:,}; take fewer of each"
            )
        self._check_servers()
        folders = {at_home(part.model) for part in self.parts() if part.model}
        if len({folder.name for folder in folders}) < len(folders):
            raise ConfigError(f"model: two folders of one name cannot be told apart: {sorted(map(str, folders))}")

    def _check_servers(self) -> None:
        """Refuse two servers of someone else that are called the same, and one that no grid measures."""
        foreign = [part for part in self.parts() if FOREIGN in part.modes]
        if self.has_server() and not foreign:
            raise ConfigError(f"server: no grid has mode {FOREIGN}, so nobody measures it; write mode: {FOREIGN}")
        known: dict[str, object] = {}
        for part in foreign:
            if known.setdefault(part.server_label, part.description) != part.description:
                raise ConfigError(f"server.name: two servers are called {part.server_label!r}; give each a server.name")

    @property
    def can_have_processes(self) -> bool:
        """Whether a server of this sweep can have its workers in several processes."""
        return self.kind == "thread" and any(mode in MULTIPROCESS_MODES for mode in self.modes)

    def processes(self, mode: str, threads: int) -> list[int]:
        """Return in how many processes the workers of such servers are; each count is a server of its own."""
        if mode not in MULTIPROCESS_MODES or self.kind != "thread":
            return [1]
        return [count for count in self.server_processes if count <= threads] or [1]

    @property
    def selection(self) -> Selection:
        """What a cell is chosen by; raises `ConfigError` for an unknown one."""
        return read_selection(self.select)

    @property
    def math(self) -> list[int]:
        """The math threads that its engine is measured with."""
        several = counts(self.math_threads)
        varies = facts_of(self.engine).computes_in_threads or self.modes == [FOREIGN]
        return several if varies else several[:1]

    def parts(self) -> list[SweepParams]:
        """Return this sweep's grids: its own, and one for each entry of `also`."""
        own = msgspec.structs.asdict(self) | {"also": []}
        fixed = {
            "also", "rounds", "extra_rounds", "seed", "samples", *OF_TEXTS, "ladder_rounds", "twin", "select", "search",
            "cluster",
        }  # fmt: skip
        parts: list[SweepParams] = []
        for number, entry in enumerate(self.also, start=1):
            if common := fixed & entry.keys():
                raise ConfigError(f"also, entry {number}: {sorted(common)[0]} belongs to the whole sweep")
            values = own | {"server_processes": [1]} | entry
            if FOREIGN not in ([values["mode"]] if isinstance(values["mode"], str) else values["mode"]):
                dropped = set(FIELDS) - set(OF_TEXTS)
                values = {name: value for name, value in values.items() if name in entry or name not in dropped}
            if "server_name" in entry and not {"server_command", "server_url"} & entry.keys():
                values |= self._named(entry["server_name"], parts, f"also, entry {number}")
            part = make(SweepParams, values, f"also, entry {number}")
            if "server_processes" not in entry and part.can_have_processes:
                fitting = [count for count in self.server_processes if count <= max(part.server_threads)]
                part = msgspec.structs.replace(part, server_processes=fitting or [1])
            parts.append(part)
        return [msgspec.structs.replace(self, also=[]) if self.also else self, *parts]

    def _named(self, name: object, parts: Sequence[SweepParams], where: str) -> dict[str, Any]:
        """Return what is said of the server of that name: this sweep's, or of an entry before."""
        for part in (self, *parts):
            if part.has_server() and part.server_label == name:
                return {field: getattr(part, field) for field in FIELDS}
        raise ConfigError(f"{where}: server.name: no server before is called {name!r}; give it a server.command")

    def grid(self, axes: Axes, round_: int, sweep: str, run: str, outputs: Path) -> GridParams:
        """Return the parameters of one notebook run of this sweep."""
        shared = {name: getattr(self, name) for name in _Measured.__struct_fields__}
        if axes.mode != FOREIGN:
            shared |= {name: getattr(_NO_SERVER, name) for name in FIELDS if name not in OF_TEXTS}
        place = {"round": round_, "sweep": sweep, "run": run, "outputs": str(outputs)}
        return GridParams(**shared | place | axes._asdict())

    def foreign_run(self) -> GridParams:
        """Return one run of the first grid of a server of someone else; raise `ConfigError` when there is none."""
        for part, axes in self.every_grid():
            if axes.mode == FOREIGN:
                return part.grid(axes, 1, "one", "", Path())
        raise ConfigError(f"mode: no grid has mode {FOREIGN}, so there is no server of someone else")

    def every_grid(self) -> list[tuple[SweepParams, Axes]]:
        """Return every grid's part and place on the axes; without a server, threads and nodes mean nothing."""
        return [
            (part, Axes(mode, threads, nodes, processes, math))
            for part in self.parts()
            for mode in part.modes
            for threads in (part.server_threads[:1] if mode in (*LOCAL_MODES, *ECHO_MODES) else part.server_threads)
            for nodes in ([1] if mode in LOCAL_MODES else part.server_nodes)
            for processes in part.processes(mode, threads)
            for math in part.math
        ]
