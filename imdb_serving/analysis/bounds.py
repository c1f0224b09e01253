"""Operational bounds and utilisation: the most that a closed loop can give, and which resource is busy.

After Denning and Buzen (1978) and Lazowska et al., Quantitative System Performance (1984), chapter 5: nothing is
assumed of distributions. Works on the cells of one curve and returns numbers, no sentences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd

from imdb_serving.analysis.cores import ENGINE_OP
from imdb_serving.analysis.summary import NOT_SERVING
from imdb_serving.cell import OPAQUE_MODES
from imdb_serving.timing import REMOTE

BUSY = 0.85
"""From this utilisation on a resource is what limits."""

Limit = Literal["cores", "workers", "front", "clients", "nothing", "unknown"]
CORES: Limit = "cores"
WORKERS: Limit = "workers"
FRONT: Limit = "front"
CLIENTS: Limit = "clients"
NOTHING: Limit = "nothing"
UNKNOWN: Limit = "unknown"

ONE_THREAD = "flask-dev"
"""The mode whose web server is one thread, which waits for each answer."""


class Bounds(NamedTuple):
    """The most requests a second that one curve can give, each by what would limit it; infinite where nothing would.

    `alone_us` is the time of a request of one client, thinking included and waking cores not, D + Z - 2 W; N clients
    cannot send more than N in that time. `workers` is m / D of the ops, `cores` the allowed cores by the least CPU time
    a request took: of the servers' machines, or of the clients', whichever is less, where they are not the same.
    """

    alone_us: float
    workers: float
    cores: float

    def clients(self, count: float) -> float:
        """Return the most requests per second that this many clients can send."""
        return count * 1e6 / self.alone_us if self.alone_us else float("inf")

    def at(self, count: float) -> float:
        """Return the lowest of all bounds for this many clients."""
        return min(self.clients(count), self.workers, self.cores)


WAKE_UPS = 2
"""What a lone request waits for: the server's core to wake when it comes, and the client's when its answer does."""


def bounds(curve: pd.DataFrame, cores: float, wake_up_us: float = 0.0) -> Bounds:
    """Return the bounds of a curve, by its cell with fewest clients; that must be one for `alone_us` to be a bound.

    Under load no core sleeps, so what waking one costs is taken off, or two clients could give more than twice one's.
    """
    ordered = curve.sort_values("client_threads")
    first: Any = ordered.iloc[0]
    alone = first["total_us"] / first["client_threads"] if first["client_threads"] > 1 else first["total_us"]
    ops, workers = ops_us(first), workers_of(first)
    alone = max(alone - WAKE_UPS * wake_up_us, ops)
    taken = min(cores_us(cell, cores) for _, cell in ordered.iterrows())
    return Bounds(
        float(alone), workers * 1e6 / ops if ops else float("inf"), 1e6 / taken if taken > 0 else float("inf")
    )


def workers_of(cell: Any) -> int:
    """Return how many workers there were, on all nodes that had any."""
    return max(int(cell["server_threads"]), 1) * int(cell.get("server_nodes", 1))


def cores_us(cell: Any, cores: float) -> float:
    """Return the microseconds for which a request occupies all cores of its machines.

    Where clients are on other machines than servers, those count that are kept longer.
    """
    servers, clients = cell["server_cpu_us"], cell["client_cpu_us"]
    apart = int(cell.get("client_nodes", 0))
    if not apart:
        return float(servers + clients) / cores
    return float(max(servers / int(cell.get("server_nodes", 1)), clients / apart)) / cores


def op_names(cell: Mapping[str, Any]) -> list[str]:
    """Return the ops of a cell's server, in order."""
    return [name for name in cell["stages"] if name not in {*NOT_SERVING, "handover"}]


def ops_us(cell: Any) -> float:
    """Return how long a request keeps a worker: the sum of its ops, in microseconds."""
    return float(sum(cell[f"{name}_us"] for name in op_names(cell)))


class Busy(NamedTuple):
    """The utilisation of each resource, from 0 to 1, which of them limits, and what takes most of a worker's time.

    `front` is the one interpreter that all requests pass, as a share of a core: of the process in front of workers in
    other processes, or of the one process whose threads are the workers. With the development server it is that one
    thread. `busiest` is the resource of highest utilisation.
    """

    cores: float
    workers: float
    front: float
    clients: float
    limit: Limit
    most: str

    @property
    def busiest(self) -> Limit:
        """The resource of the highest utilisation, clients aside."""
        return max((CORES, WORKERS, FRONT), key=lambda name: getattr(self, name))


TRANSPORT = "transport"
"""What a worker does beside the ops: it reads and writes messages."""


def utilisation(cell: Any, cores: float) -> Busy:
    """Return how busy cores, workers, the front and clients were in a cell: throughput times demand.

    Cores come before workers: on busy cores workers wait for them, and their ops only look long. Where nothing is busy
    and no client has to wait for a worker, the clients are what limits: each sends one request at a time.
    """
    if cell["mode"] in OPAQUE_MODES:
        return _of_foreign(cell, cores)
    rate = cell["request_rate"] / 1e6
    servers, clients = workers_of(cell), cell["client_threads"]
    ops, taken = ops_us(cell), _worker_us(cell)
    parts = {name: cell[f"{name}_us"] for name in op_names(cell)} | {TRANSPORT: taken - ops}
    busy = Busy(
        cores=rate * cores_us(cell, cores),
        workers=min(rate * taken / servers, 1.0),
        front=rate * _front_us(cell) / int(cell.get("server_nodes", 1)),
        clients=rate * cell["client_cpu_us"] / min(clients, cores * max(int(cell.get("client_nodes", 0)), 1)),
        limit=NOTHING if clients > servers else CLIENTS,
        most=max(parts, key=lambda name: parts[name]),
    )
    for name, limits in (
        (FRONT, busy.front >= max(BUSY, busy.cores)),
        (CORES, busy.cores >= BUSY),
        (WORKERS, busy.workers >= BUSY),
    ):
        if limits:
            return busy._replace(limit=name)
    return busy


def _of_foreign(cell: Any, cores: float) -> Busy:
    """Return what is known of a server of someone else: its cores, where its processes are known, and the clients'."""
    rate, clients = cell["request_rate"] / 1e6, cell["client_threads"]
    busy = rate * cores_us(cell, cores)
    one_each = CLIENTS if clients <= workers_of(cell) else UNKNOWN
    own = rate * cell["client_cpu_us"] / min(clients, cores)
    return Busy(busy, 0.0, 0.0, own, CORES if busy >= BUSY else one_each, REMOTE)


def _worker_us(cell: Any) -> float:
    """Return for how long a request keeps a worker: its ops, or the CPU time of a worker where that is more.

    That has what the worker reads and writes, but also other threads of its process: math threads are taken off, and
    those that send and receive are not known, so that it may come to more than all of a worker's time.
    """
    ops, taken = ops_us(cell), workers_cpu_us(cell)
    if taken is None:
        return ops
    return max(ops, taken - (int(cell.get("math_threads", 1)) - 1) * float(cell.get(f"{ENGINE_OP}_us", 0.0)))


def has_front(cell: Any) -> bool:
    """Tell whether the server's workers are in other processes than the one that takes requests in."""
    return bool(cell["worker_kind"] == "process" or int(cell.get("server_processes", 1)) > 1)


def front_cpu_us(cell: Any) -> float | None:
    """Return the CPU time of a request in the process in front of the workers; None where there is none, or unknown."""
    known = cell.get("front_cpu_us")
    return float(known) if has_front(cell) and known is not None and not math.isnan(known) else None


def workers_cpu_us(cell: Any) -> float | None:
    """Return the CPU time of a request in the workers: all of the server's but the front's; None where not known."""
    if not has_front(cell):
        return float(cell["server_cpu_us"])
    front = front_cpu_us(cell)
    return None if front is None else max(float(cell["server_cpu_us"]) - front, 0.0)


def _front_us(cell: Any) -> float:
    """Return for how long a request occupies the front's one thread or interpreter."""
    if cell["mode"] == ONE_THREAD:
        inside = ("parse", "handover", *op_names(cell))
        return float(sum(cell[f"{name}_us"] for name in inside if f"{name}_us" in cell))
    if has_front(cell):
        return front_cpu_us(cell) or 0.0
    computes = 0.0 if cell.get("service") else float(cell.get(f"{ENGINE_OP}_us", 0.0))  # outside the interpreter
    return max(float(cell["server_cpu_us"]) - computes, 0.0)
