"""Simulates requests that arrive at random at one or more nodes, and returns how long each takes. Works on numbers.

A node is a flow-equivalent server (Chandy, Herzog and Woo, Parametric Analysis of Queuing Networks, 1975): with n
requests in progress it completes as many per second as it did in a closed loop of n clients, whatever goes on inside.
At most as many as it has workers are in service, at equal speed; the others wait in order of arrival.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import simpy
from numpy.typing import NDArray

SENDERS = 64
"""Clients that take turns at the nodes, each beginning at another one, as ours do."""

WARM_UP = 0.1
"""The share of the requests, from the first, of which nothing is told: they meet empty queues."""


class Node(NamedTuple):
    """What is known of one node: `rates[n - 1]` requests a second with n under way, beyond them as with the last.

    `demands` are how much work single requests are, of mean 1; `beside_s` is what of a closed loop's time is the
    client's own, before and behind a request.
    """

    rates: NDArray[np.float64]
    workers: int
    demands: NDArray[np.float64]
    beside_s: float = 0.0

    @property
    def most(self) -> float:
        """The requests a second that it gives at most."""
        return float(self.rates.max())

    def rate(self, under_way: int) -> float:
        """Return the requests per second with this many in progress."""
        return float(self.rates[min(under_way, len(self.rates)) - 1])


class _Station:
    """A node in the simulation. Work is counted on a clock that runs at the speed of each request in service."""

    def __init__(self, world: simpy.Environment, node: Node, finished: Any) -> None:
        self._world, self._node, self._finished = world, node, finished
        self._work, self._then = 0.0, 0.0
        self._serving: list[tuple[float, int]] = []
        self._waiting: deque[tuple[float, int]] = deque()
        self._version = 0

    def arrive(self, number: int, demand: float) -> None:
        """Take a request in."""
        self._pass()
        if len(self._serving) < self._node.workers:
            heapq.heappush(self._serving, (self._work + demand, number))
        else:
            self._waiting.append((demand, number))
        self._plan()

    def _speed(self) -> float:
        """Return the work a second that each request in service gets."""
        return self._node.rate(len(self._serving) + len(self._waiting)) / len(self._serving)

    def _pass(self) -> None:
        """Advance the work clock to the present time."""
        if self._serving:
            self._work += (self._world.now - self._then) * self._speed()
        self._then = self._world.now

    def _plan(self) -> None:
        """Schedule the end of the next request, unless another arrives before."""
        self._version += 1
        if self._serving:
            left = max(0.0, self._serving[0][0] - self._work) / self._speed()
            ends = self._world.timeout(left, value=self._version)
            ends.callbacks.append(self._end)

    def _end(self, event: simpy.Event) -> None:
        if event.value != self._version:
            return  # it was planned anew
        self._pass()
        _, number = heapq.heappop(self._serving)
        self._finished(number)
        if self._waiting:
            demand, waiting = self._waiting.popleft()
            heapq.heappush(self._serving, (self._work + demand, waiting))
        self._plan()


def simulate(node: Node, count: int, rate: float, requests: int, seed: int = 1) -> NDArray[np.float64]:
    """Return the seconds that requests take, of Poisson arrivals at `rate` a second to `count` such nodes.

    The first tenth is left out.
    """
    generator = np.random.default_rng(seed)
    demands = generator.choice(node.demands, requests)
    arrivals = np.cumsum(generator.exponential(1 / rate, requests))
    senders = generator.integers(0, SENDERS, requests)
    turns = generator.integers(0, count, SENDERS)
    ends = np.full(requests, np.nan)
    world = simpy.Environment()

    def finished(number: int) -> None:
        ends[number] = world.now

    stations = [_Station(world, node, finished) for _ in range(count)]

    def arrive() -> Any:
        for number in range(requests):
            yield world.timeout(arrivals[number] - world.now)
            sender = senders[number]
            stations[turns[sender]].arrive(number, demands[number])
            turns[sender] = (turns[sender] + 1) % count

    world.process(arrive())
    world.run()
    took: NDArray[np.float64] = np.maximum(ends - arrivals - node.beside_s, 0.0)
    return took[int(WARM_UP * requests) :]


def closed_loop(node: Node, clients: int, requests: int, seed: int = 1) -> float:
    """Return the requests per second of a closed loop of this many clients."""
    generator = np.random.default_rng(seed)
    demands = generator.choice(node.demands, requests + clients)
    world = simpy.Environment()
    ended: list[float] = []

    def again(_number: int) -> None:
        ended.append(world.now)
        if len(ended) < requests:
            station.arrive(0, demands[len(ended) + clients - 1])

    station = _Station(world, node, again)
    for number in range(clients):
        station.arrive(number, demands[number])
    world.run()
    first = int(WARM_UP * len(ended))
    return (len(ended) - first) / (ended[-1] - ended[first - 1]) if first else len(ended) / ended[-1]


def spread(values: Sequence[float]) -> NDArray[np.float64]:
    """Return what single requests took as shares of their mean."""
    numbers = np.asarray(values, dtype=float)
    shares: NDArray[np.float64] = numbers / numbers.mean()
    return shares
