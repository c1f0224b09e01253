"""The simulation, against queues whose formulas are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from imdb_serving.analysis.queueing import SENDERS, Node, closed_loop, simulate, spread

GENERATOR = np.random.default_rng(7)
EXPONENTIAL = spread(GENERATOR.exponential(1.0, 200_000))
FIXED = np.ones(1)


def workers(count: int, seconds: float, demands: np.ndarray = FIXED, beside_s: float = 0.0) -> Node:
    """A node of workers that take so many seconds each and do not disturb each other."""
    return Node(np.arange(1, count + 1) / seconds, count, demands, beside_s)


def erlang_c(count: int, load: float) -> float:
    """The probability that a request must wait (Erlang, 1917), of so many workers under this load in Erlangs."""
    top = load**count / math.factorial(count) * count / (count - load)
    return top / (sum(load**k / math.factorial(k) for k in range(count)) + top)


@pytest.mark.parametrize(("count", "busy"), [(1, 0.5), (1, 0.8), (4, 0.7), (48, 0.9)])
def test_waits_of_exponential_service_are_erlangs(count: int, busy: float) -> None:
    seconds = 0.01
    took = simulate(workers(count, seconds, EXPONENTIAL), 1, busy * count / seconds, 120_000)
    wait = erlang_c(count, busy * count) * seconds / (count * (1 - busy))
    assert took.mean() == pytest.approx(seconds + wait, rel=0.08)


@pytest.mark.parametrize("busy", [0.3, 0.7])
def test_waits_of_fixed_service_are_pollaczeks(busy: float) -> None:
    took = simulate(workers(1, 0.01), 1, busy / 0.01, 120_000)
    assert took.mean() == pytest.approx(0.01 * (1 + busy / (2 * (1 - busy))), rel=0.05)
    assert took.min() == pytest.approx(0.01)


def test_of_one_worker_latency_is_exponential_too() -> None:
    took = simulate(workers(1, 0.01, EXPONENTIAL), 1, 60.0, 150_000)
    assert np.percentile(took, 95) == pytest.approx(-math.log(0.05) / (100 - 60), rel=0.08)


def test_turns_at_two_nodes_are_better_than_chance_and_worse_than_one_queue() -> None:
    """Each client takes turns, so arrivals at a node are more even than chance; a common queue would idle nobody."""
    two = simulate(workers(1, 0.01, EXPONENTIAL), 2, 140.0, 120_000).mean()
    by_chance = simulate(workers(1, 0.01, EXPONENTIAL), 1, 70.0, 120_000).mean()
    one_queue = simulate(workers(2, 0.01, EXPONENTIAL), 1, 140.0, 120_000).mean()
    assert one_queue < two < by_chance * 1.05
    assert SENDERS > 1


def test_a_closed_loop_gives_back_what_it_was_made_of() -> None:
    rates = np.array([100.0, 180.0, 230.0, 240.0, 236.0])
    node = Node(rates, 2, EXPONENTIAL)
    for clients, rate in enumerate(rates, start=1):
        assert closed_loop(node, clients, 40_000) == pytest.approx(rate, rel=0.03)
    assert closed_loop(node, 9, 40_000) == pytest.approx(236.0, rel=0.03)
    assert (node.most, node.rate(3), node.rate(99)) == (240.0, 230.0, 236.0)


def test_what_clients_do_beside_their_requests_is_no_latency() -> None:
    took = simulate(workers(4, 0.01, beside_s=0.004), 1, 1.0, 2_000)
    assert np.median(took) == pytest.approx(0.006)
