"""A cell, the identity of one measurement, and a row, what one round of it gave. Knows no file and no statistics.

Owns what makes two measurements the same, and how a cell is named: ledger keys, file names, medians, legends and
comparisons follow from it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

import msgspec

from imdb_serving.config import FORMER_NAMES, engine_name

GRID, AA_REPEAT, LADDER, CALIBRATION, SEARCH, LAB = "grid", "twin", "ladder", "calibration", "search", "lab"
SCALING = "growth"
SERIES = (GRID, AA_REPEAT, LADDER, CALIBRATION, SEARCH, LAB, SCALING)
"""In what arrangement a cell is measured: a server alone with its clients; the same once more, for the A/A pair; many
servers side by side, all but one idle; against the engine that answers at once, to know the clients; as a step of a
search for a limit; by hand, in the lab; and with one value changed at a time."""

CLOSED, POISSON, CONSTANT, OFFLINE = "closed", "poisson", "constant", "offline"
ARRIVALS = (CLOSED, POISSON, CONSTANT, OFFLINE)
"""How requests arrive: the next when the last is answered; at drawn or at even times, whatever is answered; all at
once."""

TIMED, BEFORE = "timed", "before"
"""When requests are made: as each is sent, which is timed (prepro), or all of them before anything is timed."""

SHARED, APART, SPREAD = "shared", "apart", "spread"
PLACEMENTS = (SHARED, APART, SPREAD)
"""Where servers and clients of a cell run on a cluster: on one node; clients on a node of their own; on several."""

LOCAL_MODES = ("bare", "inproc", "inproc-json")
"""Ways without a server: the engine alone; the ops around it; these behind JSON bodies that nobody sends."""

FOREIGN = "http"
"""The mode of a server of someone else."""

ECHO_MODES = ("echo-zeromq", "echo-socket")
"""What a transport can do at most: one process that sends back what it receives."""

OPAQUE_MODES = (FOREIGN, *ECHO_MODES)
"""Modes whose servers tell nothing of themselves."""


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is measured. Two measurements with equal cells are repeats of one; anything else is another cell.

    `rate` is the offered load in requests a second, 0 where arrivals have none. `endpoint` is the address's scheme.
    `service` is what the simulated engine is told to sleep, `pipeline` one's own as `module:function`; both empty
    elsewhere. `server_processes` is in how many processes the worker threads are, 1 where workers are processes
    themselves. `server` is what a server of someone else is called (mode `http`); `engine` is empty there, unless it
    runs one of ours. `samples` are all that the clients send together, as often as there are `passes`; `words` is the
    length of each where reviews are made up, 0 for real ones. `placement` says on which machines of a cluster server
    and clients are, empty where there is none; each of the `server_nodes` has `server_threads` workers, and
    `client_nodes` have clients alone.
    """

    series: str = GRID
    mode: str = "rpc"
    server: str = ""
    engine: str = "paddle"
    net: str = "cnn"
    model: str = ""
    server_threads: int = 1
    server_processes: int = 1
    client_threads: int = 1
    batch: int = 1
    prepro: str = TIMED
    arrivals: str = CLOSED
    rate: float = 0.0
    client_kind: str = "keep-alive"
    worker_kind: str = ""
    math_threads: int = 1
    service: str = ""
    pipeline: str = ""
    endpoint: str = ""
    samples: int = 0
    passes: int = 1
    words: int = 0
    placement: str = ""
    server_nodes: int = 1
    client_nodes: int = 0

    def __post_init__(self) -> None:
        if self.engine in FORMER_NAMES:  # in a row of an older ledger
            msgspec.structs.force_setattr(self, "engine", engine_name(self.engine))

    @property
    def key(self) -> str:
        """A short hash of all fields: the same in every process, another for every other cell."""
        return digest(self)

    @property
    def slug(self) -> str:
        """A file name for this cell, which tells a reader most and no other cell has."""
        words = [self.series] if self.series != GRID else []
        words += [
            self.mode,
            *filter(None, [self.server, self.engine]),
            f"s{self.server_threads}",
            f"c{self.client_threads}",
            self.key,
        ]
        return re.sub(r"[^\w.-]+", "-", "-".join(words))

    def without(self, *fields: str) -> Cell:
        """Return this cell with some fields at their defaults."""
        defaults = Cell()
        return msgspec.structs.replace(self, **{name: getattr(defaults, name) for name in fields})

    def label(self, fields: Iterable[str] | None = None) -> str:
        """Return some of the fields in words, all that are not empty when none are named, in the order of the class."""
        wanted = set(FIELDS if fields is None else fields)
        return ", ".join(words for name in FIELDS if name in wanted and (words := in_words(name, getattr(self, name))))


FIELDS: tuple[str, ...] = Cell.__struct_fields__

_WORDS = {
    "engine": "engine {}",
    "net": "net {}",
    "model": "model {}",
    "batch": "batch {}",
    "rate": "{:,.0f} requests/s offered",
    "worker_kind": "{} workers",
    "service": "service time {}",
    "pipeline": "pipeline {}",
    "endpoint": "over {}",
    "samples": "{:,} samples",
    "words": "{:,} words each",
    "placement": "clients {}",
}
_COUNTED = {
    "server_threads": "server thread",
    "server_processes": "server process",
    "client_threads": "client",
    "math_threads": "math thread",
    "passes": "pass",
    "server_nodes": "server node",
    "client_nodes": "client node",
}
_SAID: dict[tuple[str, object], str] = {
    ("series", GRID): "",
    ("series", AA_REPEAT): "the A/A pair's second",
    ("client_kind", "keep-alive"): "",
    ("client_kind", "curl"): "curl clients",
    ("arrivals", CLOSED): "closed loop",
    ("arrivals", POISSON): "Poisson arrivals",
    ("arrivals", CONSTANT): "even arrivals",
    ("arrivals", OFFLINE): "all at once",
    ("prepro", TIMED): "",
    ("prepro", BEFORE): "requests made before",
    ("rate", 0.0): "",
    ("passes", 1): "",
    ("server_processes", 1): "",
    ("placement", SHARED): "clients on the server's node",
    ("placement", APART): "clients on another node",
    ("placement", SPREAD): "clients on several nodes",
    ("server_nodes", 1): "",
    ("client_nodes", 0): "",
    ("client_nodes", 1): "",
}


def in_words(name: str, value: object) -> str:
    """Return one field's value in words, empty for one that says nothing."""
    if (name, value) in _SAID:
        return _SAID[name, value]
    if name in _COUNTED:
        return plural(int(str(value)), _COUNTED[name])
    if name == "pipeline":
        value = str(value).rpartition("/")[2]  # of a file, its name
    return _WORDS.get(name, "{}").format(value) if value else ""


def plural(count: int, noun: str) -> str:
    """Return `1 round`, `2 rounds`."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def listed(names: Iterable[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


def varying(cells: Sequence[Cell]) -> list[str]:
    """Return the fields in which these cells differ."""
    return [name for name in FIELDS if len({getattr(cell, name) for cell in cells}) > 1]


def common(cells: Sequence[Cell], without: Iterable[str] = ()) -> str:
    """Return in words what these cells have in common; empty when there are none."""
    leave = {*varying(cells), *without}
    return cells[0].label([name for name in FIELDS if name not in leave]) if cells else ""


def digest(*parts: object) -> str:
    """Return twelve hexadecimal digits that stand for these values."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:12]


SCHEMA = 2

OK, INVALID, FAILED = "ok", "invalid", "failed"
"""Measured and sound; measured, but a gate says that the numbers mean something else; not measured."""


class Finding(msgspec.Struct, frozen=True):
    """What is wrong with a measurement: the gate it failed, what was seen, and what to do about it."""

    gate: str
    seen: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.gate}: {self.seen}" + (f"; {self.remedy}" if self.remedy else "")


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one round of a cell gave. Times in microseconds are a request's, rates are a second's.

    `throughput` is in samples, `request_rate` in requests, both counted in the `window_s` in which all clients were at
    work; `wall_s` is from the first start to the last end. Percentiles are None where too few requests stand behind.
    `residual_us` is the median of |total - sum of its stages|, `unexplained_us` that of what `client_infer` spends
    outside its stages; `in_flight` the mean number of requests under way, for Little's law. In an open loop latencies
    run from the intended send time, `service_*` from the real one. `front_cpu_us` is what of `server_cpu_us` the
    process takes to which clients connect, its children's not counted; `server_memory_mib` is the memory of all its
    processes. `foreign_cores` and `steal_cores` are what others on this machine, and the hypervisor, took of the cores
    meanwhile; `throttled_s` is for how long a quota of CPU time had this process's groups wait, None without a quota;
    `of_ceiling` is the rate as a share of what these clients can send at most.
    """

    wall_s: float = 0.0
    window_s: float = 0.0
    throughput: float = 0.0
    request_rate: float = 0.0
    mean_us: float | None = None
    p50_us: float | None = None
    p90_us: float | None = None
    p95_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    service_p50_us: float | None = None
    service_p99_us: float | None = None
    residual_us: float | None = None
    unexplained_us: float | None = None
    in_flight: float | None = None
    offered: float | None = None
    achieved: float | None = None
    server_cpu_us: float | None = None
    front_cpu_us: float | None = None
    client_cpu_us: float | None = None
    server_memory_mib: float | None = None
    foreign_cores: float | None = None
    steal_cores: float | None = None
    throttled_s: float | None = None
    load_before: float | None = None
    load_after: float | None = None
    of_ceiling: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one cell.

    `key` stands for the cell, the model, the code and the machine: rows of one key and round are the same measurement.
    `card` is the environment card's id. `requests` were to be sent; `answered` counts samples. `difference` is the
    greatest distance of an answer from the bare engine's. `stages` are the parts of `client_infer` as the server and
    the client named them, in order; `sums_s` are seconds summed over one client's requests and averaged over the
    clients, as published, `means_us` a request's mean, both with `prepro`, `client_infer`, `postpro` and `total` too.
    `clock_bound_us` is how far `send` and `reply` can be from the truth where the clocks of two hosts were compared,
    None on one host; where one of them is smaller than that, both stand together as `network`. On a cluster `nodes`
    says which machines had servers and clients, and `client_card` is the card of clients' machines unlike the servers'.
    """

    schema: int = SCHEMA
    run: str
    key: str
    cell: Cell
    round: int
    order: int = 0
    began: str
    seed: int
    card: str
    status: str = OK
    error: str = ""
    findings: tuple[Finding, ...] = ()
    requests: int = 0
    answered: int = 0
    failed_requests: int = 0
    unsent: int = 0
    answers: str = ""
    difference: float | None = None
    accuracy: float | None = None
    stages: tuple[str, ...] = ()
    sums_s: dict[str, float] = {}
    means_us: dict[str, float] = {}
    clock_bound_us: float | None = None
    figures: Figures = Figures()
    raw: str = ""
    client_card: str = ""
    nodes: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """What is wrong, in words; empty when nothing is."""
        return "; ".join([*([self.error] if self.error else []), *map(str, self.findings)])
