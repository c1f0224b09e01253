"""The Universal Scalability Law, and a curve of a sweep (throughput against clients) with its bounds, law and knee.

X(N) = gamma N / (1 + alpha (N - 1) + beta N (N - 1)), with alpha, beta >= 0. Source: Gunther, Guerrilla Capacity
Planning (2007). N / X is linear in 1/gamma, alpha/gamma and beta/gamma, so the fit is a least squares with coefficients
of at least 0 and relative residuals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls

from imdb_serving.analysis.bounds import Bounds, bounds
from imdb_serving.analysis.cells import valid

LEAST_COUNTS = 6
GREATEST_RESIDUAL = 0.1
FURTHEST = 2.0
"""Times the greatest measured N up to which anything is told."""

RESAMPLES = 400
CONFIDENCE = 0.95


class Law(NamedTuple):
    """A fitted law: its coefficients, their intervals, and the greatest relative residual.

    The intervals are None where there was one round only: nothing tells then how far the coefficients may be off.
    """

    gamma: float
    alpha: float
    beta: float
    alpha_interval: tuple[float, float] | None
    beta_interval: tuple[float, float] | None
    residual: float
    most: int

    @property
    def fits(self) -> bool:
        """False where the law is not what was measured."""
        return self.residual <= GREATEST_RESIDUAL

    def at(self, count: float) -> float:
        """Return the throughput of N clients; raise `ValueError` where the law may not be asked."""
        if not self.fits:
            raise ValueError(
                f"the law does not fit: a residual of {self.residual:.0%}, more than {GREATEST_RESIDUAL:.0%}"
            )
        if count > FURTHEST * self.most:
            raise ValueError(f"{count:g} clients are more than twice the {self.most} that were measured")
        return self._at(count)

    def _at(self, count: float) -> float:
        return self.gamma * count / (1 + self.alpha * (count - 1) + self.beta * count * (count - 1))

    @property
    def peak(self) -> float:
        """The number of clients of greatest throughput; infinite without coherency costs that are shown to be there."""
        if self.beta <= 0 or self.beta_interval is None or self.beta_interval[0] <= 0:
            return math.inf
        return math.sqrt(max(1 - self.alpha, 0) / self.beta)


def fit(rounds: Mapping[int, Sequence[float]], seed: int = 1, unit: str = "client") -> Law | str:
    """Fit the law to throughputs by client count, each a list over the rounds; return why not, where it may not be.

    What is counted may be another `unit`. Intervals are from a parametric bootstrap (`RESAMPLES` times, seeded): the
    spread of a mean is that of all counts' residuals together, what their rounds share taken out, and its own doubt is
    drawn too, for rounds are few.
    """
    counts = sorted(rounds)
    if len(counts) < LEAST_COUNTS:
        return f"{len(counts)} {unit} counts are measured, the law needs {LEAST_COUNTS}"
    clients = np.array(counts, dtype=float)
    means = np.array([np.mean(rounds[count]) for count in counts])
    if not (means > 0).all():
        return f"a {unit} count has no throughput"
    gamma, alpha, beta = _coefficients(clients, means)
    intervals = _intervals(clients, means, [np.log(rounds[count]) for count in counts], seed)
    law = Law(gamma, alpha, beta, *intervals, 0.0, counts[-1])
    predicted = np.array([law._at(count) for count in counts])
    return law._replace(residual=float(np.abs(predicted / means - 1).max()))


Interval = tuple[float, float]


def _intervals(
    clients: NDArray[np.float64], means: NDArray[np.float64], logs: list[NDArray[np.float64]], seed: int
) -> tuple[Interval | None, Interval | None]:
    """Return the intervals of alpha and beta, None where no count has two rounds."""
    left = [own - own.mean() for own in logs]
    lengths = np.array([len(own) for own in logs])
    freedom = int((lengths - 1).sum())
    if freedom and len(set(lengths)) == 1 and len(logs) > 1:  # the same rounds
        left = list(np.array(left) - np.array(left).mean(axis=0))
        freedom = (len(logs) - 1) * (int(lengths[0]) - 1)
    if not freedom:
        return None, None
    spread = math.sqrt(sum(float((own**2).sum()) for own in left) / freedom)
    generator = np.random.default_rng(seed)
    tries = []
    for _ in range(RESAMPLES):
        scale = spread * math.sqrt(freedom / generator.chisquare(freedom))
        drawn = means * np.exp(generator.normal(0, scale / np.sqrt(lengths)))
        tries.append(_coefficients(clients, drawn)[1:])
    ends = [100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2]
    alphas, betas = (tuple(map(float, np.percentile(column, ends))) for column in zip(*tries, strict=True))
    return (alphas[0], alphas[1]), (betas[0], betas[1])


def _coefficients(clients: NDArray[np.float64], throughput: NDArray[np.float64]) -> tuple[float, float, float]:
    slowness = clients / throughput
    terms = np.column_stack([np.ones_like(clients), clients - 1, clients * (clients - 1)])
    (first, second, third), _ = nnls(terms / slowness[:, None], np.ones_like(clients))
    if first <= 0:  # nothing but contention: as steep as can be told
        first = float(slowness.min()) * 1e-6
    return 1 / first, second / first, third / first


NEAR = 0.95
"""The share of the greatest throughput from which on more clients only wait longer."""


class Curve(NamedTuple):
    """A curve's bounds, its fitted law or the reason why there is none, and the clients at its knee."""

    bounds: Bounds
    law: Law | str
    knee: int


def analyse(cells: pd.DataFrame, rows: pd.DataFrame, cores: float, wake_up_us: float = 0.0) -> Curve | None:
    """Analyse the cells of one curve with the rows behind them; None where no cell is valid."""
    sound = cells[cells["valid"].astype(bool)].sort_values("client_threads")
    if sound.empty:
        return None
    own: Any = valid(rows[rows["key"].isin(sound["key"])])
    by_count = {int(count): list(part["throughput"]) for count, part in own.groupby("client_threads")}
    enough = sound[sound["throughput"] >= NEAR * sound["throughput"].max()]
    return Curve(bounds(sound, cores, wake_up_us), fit(by_count), int(enough["client_threads"].iloc[0]))
