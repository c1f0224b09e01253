"""The noise of a sweep, and what it lets be said of cells: their intervals, their differences, which are unstable.

The logarithm of a figure is taken as the sum of its cell, the round, the server process of the round, and the rest.
Cells of one server process in one round are not independent of each other, so the last two are kept apart. Both are
found from the residuals of all cells of a mode and engine, round effects taken out, and moderated (`variances`).
Statistics only: sentences belong to the report.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imdb_serving.analysis.cells import cells, of_series, valid
from imdb_serving.analysis.intervals import CONFIDENCE, Estimate
from imdb_serving.analysis.outliers import outliers_of
from imdb_serving.analysis.variances import UNKNOWN, Variance, combined, moderated, student

Numbers = NDArray[np.float64]

DRIFT_INFLATION = 1.5
"""What the drift of a mean over rounds counts for: rounds that follow each other drift alike, which adds up.

It is (1 + r) / (1 - r) of a correlation of one fifth; how much it really is, few rounds cannot tell.
"""

SETTLED = 3
"""Valid rounds with which a sweep leaves a cell alone."""


class Components(NamedTuple):
    """The variance components of one mode and engine: `within` a server process, and `whole`, the process included."""

    within: Variance
    whole: Variance


@dataclass(frozen=True)
class Noise:
    """Means of the logarithms of one figure over the rounds, by cell, and how far they may be off.

    `counts` are the valid rounds of each cell, `shares` the share of each round in its mean, `highest` the highest of
    them; `servers` and `strata` say which cells share a server process, and a mode and engine (`modes`). `design` times
    a variance is the covariance of the rounds' effects, which makes cells of different rounds harder to compare.
    `of_rounds` is the variance of a round's mean over all cells, `drift` what of the mean over the rounds is more than
    their noise makes, `spread` the pooled standard deviation of a cell in a round. Unstable cells took no part in the
    variances; outliers of others are `set_aside`.
    """

    modes: list[tuple[str, str]]
    keys: list[Hashable]
    means: Numbers
    highest: Numbers
    counts: NDArray[np.int64]
    shares: Numbers
    design: Numbers
    servers: NDArray[np.int64]
    strata: NDArray[np.int64]
    components: list[Components]
    of_rounds: Variance
    drift: Variance
    effects: Mapping[int, float]
    unstable: Mapping[Hashable, str]
    set_aside: Mapping[Hashable, list[int]]

    def place(self, key: Hashable) -> int | None:
        """Return where a cell stands in the arrays, None for one that has no valid round."""
        return self.keys.index(key) if key in self.keys else None

    def components_of(self, place: int) -> Components:
        """Return the noise of a cell's mode and engine."""
        return self.components[int(self.strata[place])]

    @property
    def known(self) -> bool:
        """False where there is one round only."""
        return self.of_rounds.freedom > 0

    @property
    def spread(self) -> float:
        """The standard deviation of the logarithm of a cell in a round, all modes and engines together."""
        if not self.known:
            return math.nan
        sizes = np.bincount(self.strata, minlength=len(self.components))
        variances = [self._whole(own).value for own in self.components]
        return math.sqrt(float(np.average(variances, weights=sizes)))

    def of_cell(self, place: int) -> Variance:
        """Return the variance of a cell in a round."""
        return self._whole(self.components_of(place))

    def _whole(self, own: Components) -> Variance:
        """Return the noise of a cell; with one server process a round, which drift cannot be told from, with both."""
        if own.whole.freedom:
            return own.whole
        return combined([(1.0, part) for part in (own.within, self.of_rounds) if part.freedom])

    def interval(self, place: int, confidence: float = CONFIDENCE) -> Estimate:
        """Return a cell's figure with its interval: what rounds of other times may give, drift included."""
        own = self.components_of(place)
        alone = float(self.shares[place] @ self.design @ self.shares[place])  # 0 for a cell of all rounds
        parts = [(1 / self.counts[place] + alone, self.of_cell(place))]
        doubt = combined([*parts, (1.0, self.drift)] if own.whole.freedom else parts)
        return self._estimate(self.means[place], doubt, confidence)

    def ratio(self, one: int, other: int, confidence: float = CONFIDENCE) -> Estimate:
        """Return the second cell's figure as a multiple of the first's, paired by round, with its interval."""
        return self._estimate(self.means[other] - self.means[one], self.of_difference(one, other), confidence)

    def of_difference(self, one: int, other: int) -> Variance:
        """Return the variance of the difference of two cells; what their rounds share is not in it.

        Where no two cells of a server were repeated, those of one server are taken to share nothing of it.
        """
        first, second = self.components_of(one), self.components_of(other)
        apart = self.shares[one] - self.shares[other]
        more = (float(apart @ self.design @ apart), first.whole if first.whole.freedom else first.within)
        if self.servers[one] == self.servers[other]:
            own = first.within if first.within.freedom else first.whole
            return combined([(1 / self.counts[one] + 1 / self.counts[other], own), more])
        return combined([(1 / self.counts[one], first.whole), (1 / self.counts[other], second.whole), more])

    def _estimate(self, mean: float, doubt: Variance, confidence: float) -> Estimate:
        if not doubt.freedom or not math.isfinite(doubt.value):
            return Estimate(math.exp(mean), math.nan, math.nan)
        half = student(doubt.freedom, confidence) * math.sqrt(doubt.value)
        with np.errstate(over="ignore"):  # an early look of a search is so sure that its interval has no end
            return Estimate(*(float(np.exp(value)) for value in (mean, mean - half, mean + half)))


def noise_of(rows: pd.DataFrame, figure: str = "throughput", like: Noise | None = None) -> Noise:
    """Return the noise of a figure in the valid rows of a grid of closed loops; cells are in the order of the rows.

    Outliers are found, or those of another figure's noise. They are set aside; a cell with too many is unstable.
    """
    sound = valid(rows)
    sound = sound[sound[figure] > 0]
    logs = sound.pivot_table(index="key", columns="round", values=figure, sort=False)
    table = np.log(logs.to_numpy(dtype=float)).reshape(logs.shape)
    cells = sound.drop_duplicates("key").set_index("key").loc[logs.index, "cell"] if len(logs) else []
    servers = _numbered([cell.without("client_threads", "rate", "samples") for cell in cells])
    strata = _numbered([(cell.mode, cell.engine) for cell in cells])
    keys: list[Hashable] = list(logs.index)
    numbers = list(map(int, logs.columns))
    unstable, set_aside = _outliers(table, strata, keys, numbers) if like is None else (like.unstable, like.set_aside)
    for place, key in enumerate(keys):
        for column in (numbers.index(number) for number in set_aside.get(key, ()) if number in numbers):
            table[place, column] = np.nan
    steady = np.array([key not in unstable for key in keys], dtype=bool)
    effects, means, left, design = _additive(table, steady if steady.any() else ~steady)
    components = _components(left, servers, strata, steady)
    counts = np.isfinite(table).sum(axis=1)
    of_rounds, drift = _of_rounds(effects, servers[steady], strata[steady], components)
    return Noise(
        modes=list(dict.fromkeys((cell.mode, cell.engine) for cell in cells)),
        keys=keys,
        means=means,
        highest=_highest(table - effects),
        counts=counts,
        shares=_shares(table),
        design=design,
        servers=servers,
        strata=strata,
        components=components,
        of_rounds=of_rounds,
        drift=drift,
        effects=dict(zip(numbers, map(float, effects), strict=True)),
        unstable=unstable,
        set_aside=set_aside,
    )


def _outliers(
    table: Numbers, strata: NDArray[np.int64], keys: list[Hashable], numbers: list[int]
) -> tuple[Mapping[Hashable, str], Mapping[Hashable, list[int]]]:
    """Return the unstable cells with what was seen, and the outliers of those that are steady without them."""
    found = {keys[place]: own for place, own in outliers_of(table, strata).items()}
    unstable = {key: own.seen for key, own in found.items() if own.too_many}
    return unstable, {key: [numbers[at] for at in own.rounds] for key, own in found.items() if not own.too_many}


def _numbered(values: list[Any]) -> NDArray[np.int64]:
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def _highest(table: Numbers) -> Numbers:
    return np.nanmax(table, axis=1) if table.size else np.empty(0)


def _additive(table: Numbers, steady: NDArray[np.bool_]) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Return the effects of the rounds (of mean 0), the means of the cells without them, what is left, and the design.

    By least squares over the steady cells. The design times a variance is the covariance of the effects.
    """
    known = np.isfinite(table[steady]).astype(float)
    design: Any = np.linalg.pinv(np.diag(known.sum(axis=0)) - known.T @ _shares(table[steady]), hermitian=True)
    apart = table[steady] - _mean(table[steady], axis=1)[:, None]
    effects: Numbers = design @ np.nansum(apart, axis=0)
    effects -= effects.mean() if len(effects) else 0.0
    means = _mean(table - effects, axis=1)
    return effects, means, table - effects - means[:, None], design


def _shares(table: Numbers) -> Numbers:
    """Return the share of each round in each cell's mean."""
    known = np.isfinite(table)
    counts = known.sum(axis=1)[:, None]
    result: Numbers = np.divide(known, counts, out=np.zeros(known.shape), where=counts > 0)
    return result


def _mean(table: Numbers, axis: int) -> Numbers:
    known = np.isfinite(table)
    counts = known.sum(axis=axis)
    sums = np.where(known, table, 0.0).sum(axis=axis)
    result: Numbers = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return result


def _components(left: Numbers, servers: NDArray[np.int64], strata: NDArray[np.int64], steady: Any) -> list[Components]:
    """Return the noise of each mode and engine from what is left of its steady cells."""
    repeated = steady & (np.isfinite(left).sum(axis=1) > 1)
    all_servers = len(set(servers[repeated]))
    raw: list[tuple[Variance, Variance, float]] = []
    for stratum in range(strata.max() + 1 if len(strata) else 0):
        inside = between = inside_freedom = between_freedom = 0.0
        sizes = []
        for server in dict.fromkeys(servers[(strata == stratum) & repeated]):
            own = left[(servers == server) & repeated]
            known = np.isfinite(own)
            rounds, size = int(known.any(axis=0).sum()), known.sum(axis=0)
            shared = _mean(own, axis=0)
            sizes.append(float(size[size > 0].mean()))
            inside += float(np.nansum((own - shared) ** 2))
            between += float(np.nansum(size * shared**2))
            inside_freedom += float(known.sum() - rounds - len(own) + 1)
            between_freedom += (rounds - 1) * (1 - 1 / all_servers)
        size = float(np.mean(sizes)) if sizes else 1.0
        raw.append((_variance(inside, inside_freedom), _variance(between, between_freedom), size))
    within = moderated([one for one, _, _ in raw])
    whole = [_whole(of_cells, of_servers, size) for (_, of_servers, size), of_cells in zip(raw, within, strict=True)]
    return [Components(*pair) for pair in zip(within, moderated(whole), strict=True)]


def _variance(squares: float, freedom: float) -> Variance:
    return Variance(squares / freedom, freedom) if freedom > 1e-9 else UNKNOWN


def _whole(of_cells: Variance, of_servers: Variance, size: float) -> Variance:
    """Return the variance of a cell in a round, its server process included.

    `of_servers` is the mean square of a server's `size` cells.
    """
    if not of_servers.freedom:
        return UNKNOWN
    if size <= 1 or not of_cells.freedom:
        return of_servers
    sum_ = combined([(1 / size, of_servers), (1 - 1 / size, of_cells)])
    return sum_ if sum_.value >= of_cells.value else Variance(of_cells.value, sum_.freedom)


def _of_rounds(effects: Numbers, servers: Any, strata: Any, components: list[Components]) -> tuple[Variance, Variance]:
    """Return the variance of a round's mean over all cells, and what of it is drift: more than their noise makes."""
    rounds = len(effects)
    if rounds < 2 or not len(servers):
        return UNKNOWN, Variance(0.0, 0.0)
    seen = Variance(float(effects.var(ddof=1)), rounds - 1.0)
    parts: dict[Variance, float] = {}
    for server in set(servers):
        own, size = components[strata[servers == server][0]], int((servers == server).sum())
        within = own.within if own.within.freedom else own.whole
        shared = Variance(max(own.whole.value - within.value, 0.0), own.whole.freedom)
        for part, weight in ((shared, size * size), (within, size)):
            if not part.freedom:
                continue  # with one server process a round, that is what the rounds differ by
            parts[part] = parts.get(part, 0.0) + weight / len(servers) ** 2
    noise = combined([(weight, part) for part, weight in parts.items()])
    more = seen.value - noise.value
    if more <= 0:
        return noise if noise.freedom else seen, Variance(0.0, 0.0)
    return seen, Variance(DRIFT_INFLATION * more / rounds, seen.freedom * (more / seen.value) ** 2)


def unsettled(rows: pd.DataFrame) -> dict[Hashable, str]:
    """Return the cells of the grid that another round of all may settle, by key, each with why.

    Those are the unstable ones, and those with too few valid rounds, if there is one: what makes every round invalid
    does not pass by itself.
    """
    grid = of_series(rows)
    table = cells(grid) if len(grid) else grid
    if table.empty:
        return {}
    wanted = min(SETTLED, int(grid["round"].max()))
    passing = table[(table["rounds"] < wanted) & (table["rounds"] > 0)]
    return dict(zip(passing["key"], passing["why"], strict=True)) | dict(noise_of(grid).unstable)
