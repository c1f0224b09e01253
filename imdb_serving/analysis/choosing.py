"""Which of a sweep's cells is chosen: by throughput, by that under a limit of the p99, or by CPU time a request."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import pandas as pd

from imdb_serving.analysis.choice import Choice, choose, within
from imdb_serving.analysis.intervals import CONFIDENCE
from imdb_serving.analysis.noise import Noise, noise_of
from imdb_serving.analysis.selection import EFFICIENCY, P99, RATE_ZONE, Selection


class Holders(NamedTuple):
    """The cells whose p99 is shown to hold a limit, and those of which neither that nor the contrary is shown."""

    sure: list[Hashable]
    unsure: list[Hashable]


@dataclass(frozen=True)
class Chooser:
    """Chooses among cells of a grid. `sound` are the keys of all that can be chosen; `noise` is the throughput's.

    `confidence` is that of all comparisons of a choice together.
    """

    grid: pd.DataFrame
    noise: Noise
    sound: list[Hashable]
    zone: float
    selection: Selection
    confidence: float = CONFIDENCE

    @cached_property
    def tails(self) -> Noise:
        """The noise of the rounds' p99."""
        return noise_of(self.grid, "p99_us", self.noise)

    @cached_property
    def cpu(self) -> Noise:
        """The noise of the server's CPU time a request."""
        return noise_of(self.grid, "server_cpu_us", self.noise)

    @cached_property
    def holders(self) -> Holders:
        """The cells that hold the limit of the p99, and those of which it is not known."""
        return holders(self.tails, self.sound, self.selection.most_ms * 1000, self.confidence)

    def near_best(self, cells: pd.DataFrame) -> list[Hashable]:
        """Return the keys of the cells that are shown to be within `RATE_ZONE` of the best rate of these."""
        places = [place for key in cells["key"] if (place := self.noise.place(key)) is not None]
        return [self.noise.keys[place] for place in within(self.noise, places, RATE_ZONE, self.confidence)]

    def exceeds(self, key: Hashable) -> bool:
        """Tell whether a cell's measured p99 is above the limit, shown or not."""
        place = self.tails.place(key)
        return place is None or bool(self.tails.means[place] > math.log(self.selection.most_ms * 1000))

    def may_hold(self, choice: Choice) -> list[Hashable]:
        """Return the keys of the cells that may hold the limit as well, and give more than the zone allows to miss."""
        if self.selection.by != P99:
            return []
        rates = dict(zip(self.noise.keys, self.noise.means, strict=True))
        least = self.noise.means[choice.chosen] - math.log1p(-self.zone)
        return [key for key in self.holders.unsure if rates.get(key, -math.inf) > least]

    def choose(self, cells: pd.DataFrame, bounds: Sequence[float] = ()) -> Choice | None:
        """Choose one of these cells, its place in the throughput's noise; None where none can be chosen.

        `bounds` are the logarithms of the most that doubtful cells could give.
        """
        if self.selection.by == EFFICIENCY:
            return self._least_cpu(cells, bounds)
        if self.selection.by == P99:
            cells = cells[cells["key"].isin(self.holders.sure)]
        return self._choose(self.noise, cells, bounds, self.zone)

    def _least_cpu(self, cells: pd.DataFrame, bounds: Sequence[float]) -> Choice | None:
        """Choose the least CPU time a request, of the cells that are shown to be near the best rate."""
        of_rates = self._choose(self.noise, cells, bounds, RATE_ZONE)
        if of_rates is None:
            return None
        near = self.near_best(cells)
        some = near or [self.noise.keys[of_rates.best]]
        thrift = replace(self.cpu, means=-self.cpu.means)  # turned round: more is better
        found = self._choose(thrift, cells[cells["key"].isin(some)], (), self.zone)
        if found is None:
            return None
        every = (found.chosen, found.best, *found.contenders)
        chosen, best, *others = [self.noise.keys.index(thrift.keys[place]) for place in every]
        shown = found.shown and bool(near)
        return found._replace(chosen=chosen, best=best, shown=shown, contenders=others, deciding=of_rates.deciding)

    def _choose(self, noise: Noise, cells: pd.DataFrame, bounds: Sequence[float], zone: float) -> Choice | None:
        """Choose by one figure; the cheapest by its threads that compute, then workers, clients and processes."""
        pairs = zip(cells["key"], cells["cell"], strict=True)
        placed = [(place, cell) for key, cell in pairs if (place := noise.place(key)) is not None]
        costs = [
            (workers * cell.math_threads, workers, cell.client_threads, cell.server_processes)
            for _, cell in placed
            if (workers := cell.server_threads * cell.server_nodes)
        ]
        return choose(noise, [place for place, _ in placed], costs, bounds, zone, self.confidence)


def holders(tails: Noise, keys: Iterable[Hashable], most_us: float, confidence: float = CONFIDENCE) -> Holders:
    """Return which of these cells hold a limit of the p99, with this confidence for all of them together.

    Each has its share of the error (Bonferroni), because the best of those that seem to hold is chosen. `tails` is the
    noise of the rounds' p99; a cell without one is not shown to hold anything.
    """
    keys = list(keys)
    each = 1 - 2 * (1 - confidence) / max(len(keys), 1)  # one-sided
    sure, unsure = [], []
    for key in keys:
        place = tails.place(key)
        if place is None:
            continue
        found = tails.interval(place, each)
        if found.high <= most_us:
            sure.append(key)
        elif not found.low > most_us:
            unsure.append(key)
    return Holders(sure, unsure)
