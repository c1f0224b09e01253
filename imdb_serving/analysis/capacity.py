"""How many nodes a load takes, from a sweep's closed loops: the law gives a node's rate, a simulation its latencies.

Works on the rows of one ledger. Refuses to extrapolate beyond twice what was measured unless asked to
(`usl.FURTHEST`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from imdb_serving.analysis import usl
from imdb_serving.analysis.cores import ENGINE_OP, CpuTime, cpu_time, greatest_rate
from imdb_serving.analysis.queueing import Node, simulate, spread
from imdb_serving.analysis.summary import NOT_SERVING
from imdb_serving.cell import CLOSED, GRID, LOCAL_MODES, OK, POISSON, Cell, Row
from imdb_serving.errors import DataError

REQUESTS, TRY_REQUESTS = 30_000, 6_000
"""Simulated for what is told, and for each of the tries behind an interval."""

TRIES = 20
REPEATS = 5
FULL = 0.98
"""A node with more of its greatest rate than this is taken to be full: its queue grows as long as one looks."""

IDLE = 1e-3
"""The share of a worker's rate at which a node has next to nothing to do."""

MOST_NODES = 100_000
QUANTILE = 95

Rounds = Mapping[int, Sequence[float]]


class Way(NamedTuple):
    """A way of serving on one node: its cell but for clients, the rates of every client count and number of nodes.

    `demands` are single requests' times as shares of their mean, `beside_s` the client's own time of each; `bound` is
    what the workers can give at most, a second, by their ops alone. `open_loops` are rates that were offered by chance,
    each with the 95th percentile (s) that was measured.
    """

    cell: Cell
    clients: Rounds
    nodes: Rounds
    demands: NDArray[np.float64]
    beside_s: float
    bound: float = math.inf
    open_loops: tuple[tuple[float, float], ...] = ()
    cpu: tuple[CpuTime, ...] = ()
    cores: int = 0

    @property
    def most_nodes(self) -> int:
        """The greatest number of server nodes that was measured."""
        return max([1, *self.nodes])


class Answer(NamedTuple):
    """How many nodes a way of serving needs, with the interval over resampled rounds; None where none is enough.

    `p95_s` is that of so many nodes, with its interval over tries; `fewer_p95_s` that of one node less, infinite where
    it is full; `least_p95_s` that of nodes with next to nothing to do. All are `factor` times what was simulated: by so
    much open loops of the same ledger were slower than simulated.
    """

    way: Way
    law: usl.Law | str
    node: Node
    nodes: int | None
    interval: tuple[int, int] | None
    p95_s: float
    p95_interval: tuple[float, float] | None
    fewer_p95_s: float
    least_p95_s: float
    factor: float = 1.0


class TooFar(NamedTuple):
    """A configuration that would need more nodes than can be extrapolated: how many, and how many were measured."""

    way: Way
    nodes: int
    measured: int


def ways(rows: Sequence[Row], raw: Callable[[Row], Sequence[float]]) -> list[Way]:
    """Return every way of serving with valid closed-loop rows on one node; `raw` reads a row's request times (ns)."""
    sound = [row for row in rows if row.status == OK and row.cell.series == GRID and row.cell.mode not in LOCAL_MODES]
    kinds = dict.fromkeys(_kind(row.cell) for row in sound if row.cell.arrivals == CLOSED)
    own = {kind: [row for row in sound if _kind(row.cell) == kind] for kind in kinds}
    return [way for kind, rows in own.items() if (way := _way(kind, rows, raw)) is not None]


def _kind(cell: Cell) -> Cell:
    """Return a cell without its load and its number of nodes: the way of serving."""
    return cell.without("client_threads", "server_nodes", "arrivals", "rate", "samples", "passes")


def _way(kind: Cell, rows: Sequence[Row], raw: Callable[[Row], Sequence[float]]) -> Way | None:
    closed = [row for row in rows if row.cell.arrivals == CLOSED]
    single = [row for row in closed if row.cell.server_nodes == 1]
    if not single:
        return None
    fewest = min(single, key=lambda row: row.cell.client_threads)
    beside = fewest.means_us.get("prepro", 0.0) + fewest.means_us.get("postpro", 0.0)
    by_chance = [row for row in rows if row.cell.arrivals == POISSON and row.cell.server_nodes == 1]
    return Way(
        kind,
        _rates(single, lambda row: row.cell.client_threads),
        _best_of_nodes(closed),
        spread(raw(fewest)),
        beside * 1e-6,
        _bound(fewest),
        tuple((row.cell.rate, row.figures.p95_us * 1e-6) for row in by_chance if row.figures.p95_us),
        tuple(_cpu_times(single, fewest)),
    )


def _cpu_times(rows: Sequence[Row], fewest: Row) -> Iterator[CpuTime]:
    """Yield a request's CPU time in each round of the client count with the greatest rate."""
    rates = _rates(rows, lambda row: row.cell.client_threads)
    best = max(rates, key=lambda count: float(np.mean(rates[count])))
    engine_us = fewest.means_us.get(ENGINE_OP, 0.0) * fewest.cell.math_threads
    for row in rows:
        if row.cell.client_threads == best and row.figures.server_cpu_us:
            yield cpu_time(row.cell.mode, row.figures.server_cpu_us, engine_us)


def on_cores(way: Way, cores: int) -> Way:
    """Return a way on a node with so many cores of the server's own, a worker on each: computed, and not measured.

    A client gets what it got where fewest were measured, and all together no more than there is CPU time for. Raises
    `DataError` when no CPU time was measured.
    """
    if not way.cpu:
        raise DataError(f"no CPU time of {way.cell.mode} was measured: run the sweep again")
    fewest = min(way.clients)
    rounds = list(zip(itertools.cycle(way.cpu), way.clients[fewest], strict=False))
    counts = sorted({*(2**power for power in range(cores.bit_length() + 1)), cores, 2 * cores})
    clients = {
        count: [min(count * rate / fewest, greatest_rate(cores, cpu)) for cpu, rate in rounds] for count in counts
    }
    cell = msgspec.structs.replace(way.cell, server_threads=cores)
    return way._replace(cell=cell, clients=clients, nodes={1: clients[2 * cores]}, bound=math.inf, cores=cores)


def _bound(row: Row) -> float:
    ops = sum(row.means_us[name] for name in row.stages if name not in {*NOT_SERVING, "handover"})
    return row.cell.server_threads * 1e6 / ops if ops else math.inf


def _rates(rows: Sequence[Row], count: Callable[[Row], int]) -> dict[int, list[float]]:
    rates: dict[int, list[float]] = {}
    for row in rows:
        rates.setdefault(count(row), []).append(row.figures.request_rate)
    return rates


def _best_of_nodes(rows: Sequence[Row]) -> dict[int, list[float]]:
    """Return the rates of each number of nodes, with the client count that gave most."""
    best: dict[int, list[float]] = {}
    for count in {row.cell.server_nodes for row in rows}:
        own = _rates([row for row in rows if row.cell.server_nodes == count], lambda row: row.cell.client_threads)
        best[count] = max(own.values(), key=lambda rates: float(np.mean(rates)))
    return best


def node_of(way: Way, clients: Rounds, share: float = 1.0) -> tuple[Node, usl.Law | str]:
    """Return a node and its fitted law from these rounds, or the reason why there is none.

    Up to the most clients that were measured its rates are the law's where that fits, else those between the means, and
    never more than the workers can give. With more under way they stay as they are: what waits in a server's queue
    costs the others nothing. `share` is what becomes of its rate among others.
    """
    law, most = usl.fit(clients), max(clients)
    inside = np.arange(1, most + 1)
    if isinstance(law, usl.Law) and law.fits:
        rates = np.array([law.at(float(count)) for count in inside])
    else:
        known = sorted(clients)
        # With fewer clients than were measured, as if each had as much as those.
        means = [float(np.mean(clients[one])) for one in known]
        rates = np.interp(inside, known, means) * np.minimum(1, inside / known[0])
    return Node(np.minimum(rates, way.bound) * share, way.cell.server_threads, way.demands, way.beside_s), law


def share_of_nodes(way: Way, count: int) -> float:
    """Return the throughput of each of several nodes as a share of one node alone; 1 where only one was measured."""
    known = sorted(way.nodes)
    if len(known) < 2 or known[0] != 1:
        return 1.0
    law = usl.fit(way.nodes, unit="node")
    if isinstance(law, usl.Law) and law.fits and count <= usl.FURTHEST * law.most:
        return law.at(count) / (count * law.at(1))
    means = [float(np.mean(way.nodes[one])) / one for one in known]
    return float(np.interp(count, known, means)) / means[0]


def answer(way: Way, rate: float, p95_s: float, *, extrapolate: bool = False, seed: int = 1) -> Answer | TooFar:
    """Return how many nodes a rate (requests/s) takes to hold a 95th percentile (s), or that it takes too many.

    Without rounds to resample there is no interval.
    """
    node, law = node_of(way, way.clients)
    factor = slower(way, node, seed)
    least = _p95(node, 1, node.most / node.workers * IDLE, TRY_REQUESTS, seed) * factor
    if least > p95_s:
        return Answer(way, law, node, None, None, math.inf, None, math.inf, least, factor)
    target = p95_s / factor
    found = _fewest(way, node, rate, target, REQUESTS, seed)
    if found > usl.FURTHEST * way.most_nodes and not extrapolate:
        return TooFar(way, found, way.most_nodes)
    told = [_p95(_among(way, node, found), found, rate, REQUESTS, seed + one) for one in range(REPEATS)]
    fewer = _p95(_among(way, node, found - 1), found - 1, rate, REQUESTS, seed) if found > 1 else math.inf
    tries = list(_tries(way, rate, target, found, seed)) if min(map(len, way.clients.values())) > 1 else []
    counts, latencies = [one[0] for one in tries], [one[1] * factor for one in tries]
    return Answer(
        way,
        law,
        node,
        found,
        (min(counts), max(counts)) if tries else None,
        float(np.median(told)) * factor,
        (min(latencies), max(latencies)) if tries else None,
        fewer * factor,
        least,
        factor,
    )


def slower(way: Way, node: Node, seed: int = 1) -> float:
    """Return how many times as long open loops took as is simulated: the median of the 95th percentiles, at least 1.

    Where clients share the cores of the node, requests that come by chance cost more than those of a closed loop: each
    finds cores asleep, and another client's process to wake.
    """
    simulated = [(_p95(node, 1, rate, TRY_REQUESTS, seed), measured) for rate, measured in way.open_loops]
    ratios = [measured / expected for expected, measured in simulated if math.isfinite(expected)]
    return max(1.0, float(np.median(ratios))) if ratios else 1.0


def _tries(way: Way, rate: float, p95_s: float, found: int, seed: int) -> Iterator[tuple[int, float]]:
    """Yield the number of nodes and the percentile for each resampling of the rounds."""
    generator = np.random.default_rng(seed)
    for number in range(TRIES):
        drawn = {count: list(generator.choice(rates, len(rates))) for count, rates in way.clients.items()}
        node, _ = node_of(way, drawn)
        fewest = _fewest(way, node, rate, p95_s, TRY_REQUESTS, seed + number)
        yield fewest, _p95(_among(way, node, found), found, rate, TRY_REQUESTS, seed + number)


def _among(way: Way, node: Node, count: int) -> Node:
    return node._replace(rates=node.rates * share_of_nodes(way, count))


def _p95(node: Node, count: int, rate: float, requests: int, seed: int) -> float:
    if rate / count > FULL * node.most:
        return math.inf
    return float(np.percentile(simulate(node, count, rate, requests, seed), QUANTILE))


def _fewest(way: Way, node: Node, rate: float, p95_s: float, requests: int, seed: int) -> int:
    """Return the least number of nodes whose percentile holds; more nodes never make it worse."""

    def holds(count: int) -> bool:
        return _p95(_among(way, node, count), count, rate, requests, seed) <= p95_s

    low = max(1, math.ceil(rate / (FULL * node.most))) - 1
    high = low + 1
    while not holds(high):
        low, high = high, min(2 * high, MOST_NODES)
        if low == MOST_NODES:
            return MOST_NODES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
