"""The most that a cell could give whose own measurement cannot be believed, by its own rounds and by its neighbours.

Of a closed loop: N clients give at most N / M times what M do, and s servers s / t times what t do (asymptotic bounds;
Lazowska et al., 1984, chapter 5); throughput is a concave function of the clients (Dowdy, Eager, Gordon and Saxton,
Throughput concavity and response time convexity, 1984); and no cell gives more than the cores have time for. Numbers
in, logarithms of samples a second out, each with its doubt allowed for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from imdb_serving.analysis.bounds import cores_us
from imdb_serving.analysis.noise import Noise

ALLOWED = 1.645
"""Standard errors added to what a neighbour gave: it could have given more, in one case of twenty."""

COUNTS = ("server_threads", "client_threads", "samples")
"""In these may a cell differ from one that bounds it."""

BROKEN = 1.1
"""A bound that a measured cell exceeds by so much is not used: what it is made of is not what was measured."""


class Neighbour(NamedTuple):
    """A cell that can be believed, and differs in thread counts alone: what it gave, and the most that that may be."""

    server_threads: int
    client_threads: int
    rate: float
    most: float


def most_of_each(doubtful: pd.DataFrame, sound: pd.DataFrame, noise: Noise, cores: float) -> list[float]:
    """Return the logarithm of the most that each of these doubtful cells could give, by those that can be believed."""
    kinds = [cell.without(*COUNTS) for cell in sound["cell"]]
    found = []
    for _, row in doubtful.iterrows():
        alike = sound[np.array([kind == row["cell"].without(*COUNTS) for kind in kinds], dtype=bool)]
        found.append(most_of(row, alike, noise, cores))
    return found


def most_of(cell: Any, alike: pd.DataFrame, noise: Noise, cores: float) -> float:
    """Return the logarithm of the most that a doubtful cell could give; infinite where nothing bounds it.

    `alike` are the sound cells that differ from it in thread counts alone. A cell slowed by an intruder may have been
    as fast as in the best of its rounds.
    """
    servers, own = int(cell["server_threads"]), noise.place(cell["key"])
    if own is not None:  # what it gave says more than what others did
        spread = noise.of_cell(own).value
        return float(noise.highest[own]) + (ALLOWED * math.sqrt(spread) if spread > 0 else 0.0)
    laws = [*_laws(servers, int(cell["client_threads"]), _neighbours(alike, noise)), _of_cores(alike, servers, cores)]
    least = min(law for law in laws if not math.isnan(law))
    return math.log(least) if math.isfinite(least) else math.inf


def _neighbours(alike: pd.DataFrame, noise: Noise) -> list[Neighbour]:
    found = []
    for _, cell in alike.iterrows():
        place, rate = noise.place(cell["key"]), float(cell["throughput"])
        doubt = noise.of_cell(place).value / noise.counts[place] if place is not None else 0.0
        most = rate * math.exp(ALLOWED * math.sqrt(doubt)) if doubt > 0 else rate
        found.append(Neighbour(int(cell["server_threads"]), int(cell["client_threads"]), rate, most))
    return found


def _laws(servers: int, clients: int, neighbours: list[Neighbour]) -> Iterator[float]:
    for one in neighbours:
        if one.server_threads == servers and one.client_threads < clients:
            yield one.most * clients / one.client_threads
        if one.client_threads == clients and one.server_threads < servers:
            yield one.most * servers / one.server_threads
    curve = sorted((one for one in neighbours if one.server_threads == servers), key=lambda one: one.client_threads)
    below = [one for one in curve if one.client_threads < clients]
    above = [one for one in curve if one.client_threads > clients][::-1]
    for side in (below, above):
        if len(side) > 1:
            yield _beyond(side[-2], side[-1], clients)


def _beyond(farther: Neighbour, nearer: Neighbour, clients: int) -> float:
    """Return what a concave curve through two points gives beyond the nearer one at most."""
    reach = (clients - nearer.client_threads) / (nearer.client_threads - farther.client_threads)
    rate = nearer.rate + reach * (nearer.rate - farther.rate)
    doubt = math.hypot((1 + reach) * (nearer.most - nearer.rate), reach * (farther.most - farther.rate))
    return max(rate, 0.0) + doubt


def _of_cores(alike: pd.DataFrame, servers: int, cores: float) -> float:
    """Return the samples a second that the cores have time for, at the least CPU time a request took."""
    own = alike[alike["server_threads"] == servers]
    own = own if len(own) else alike
    taken = [cores_us(cell, cores) for _, cell in own.iterrows()]
    known = [value for value in taken if value > 0]
    if not known:
        return math.inf
    samples = float((own["throughput"] / own["request_rate"]).median())
    bound = samples * 1e6 / min(known)
    return math.inf if bound * BROKEN < own["throughput"].max() else bound
