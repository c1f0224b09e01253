"""Which cell to run: the cheapest whose shortfall from the best is shown to lie within an indifference zone.

Multiple comparisons with the best (Hsu, Constrained simultaneous confidence intervals, 1984): for every cell an
interval of what it falls short of the best of the others, all at once; the zone is Bechhofer's (1954). "Not told apart"
is not "equal": a cell is taken for as good as the best only where the interval says so. Numbers in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imdb_serving.analysis.intervals import CONFIDENCE, Estimate
from imdb_serving.analysis.noise import Noise
from imdb_serving.analysis.variances import critical

ZONE = 0.05
"""The shortfall from the best that is indifferent, as a share of the best."""

MOST_ROUNDS = 100
"""More than these are not worth telling: the machine is too noisy."""

Numbers = NDArray[np.float64]


class Choice(NamedTuple):
    """The chosen cell and the best measured, by place in the noise's arrays.

    `shown` tells whether the chosen one's shortfall from the true best is shown to lie in the zone; `shortfall` is
    that, as a share of the best, with simultaneous bounds. `contenders` are the places of the cells that may be the
    best, the best measured first. `rounds` are about how many would show it, 0 where it is shown, None where more than
    `MOST_ROUNDS` would. `deciding` are the doubtful cells that may be better than the chosen one by more than the zone.
    """

    chosen: int
    best: int
    shown: bool
    shortfall: Estimate
    contenders: list[int]
    rounds: int | None
    deciding: list[int]


def choose(
    noise: Noise,
    places: Sequence[int],
    costs: Sequence[tuple[float, ...]],
    bounds: Sequence[float] = (),
    zone: float = ZONE,
    confidence: float = CONFIDENCE,
) -> Choice | None:
    """Choose among the cells at these places, the cheapest by `costs`; None where there is none.

    `bounds` are the logarithms of the most that doubtful cells could give, which cannot be chosen themselves.
    """
    if not len(places):
        return None
    means = noise.means[list(places)]
    errors, reach = _differences(noise, places, confidence)
    ahead = means[None, :] - means[:, None]  # row: the cell; column: what exceeds it
    np.fill_diagonal(ahead, -math.inf)
    upper = np.maximum((ahead + reach * errors).max(axis=1), 0.0)  # -inf, and so 0, where there is no other
    lower = np.maximum((ahead - reach * errors).max(axis=1), 0.0)
    allowed = -math.log1p(-zone)
    best = int(means.argmax())
    good = np.flatnonzero(upper <= allowed)
    order = sorted(map(int, good), key=lambda place: (*costs[place], -means[place])) or [best]
    chosen, shown = order[0], bool(len(good))
    deciding = [number for number, bound in enumerate(bounds) if bound - means[chosen] > allowed]
    return Choice(
        places[chosen],
        places[best],
        shown,
        Estimate(*(-math.expm1(-value) for value in (means[best] - means[chosen], lower[chosen], upper[chosen]))),
        contenders(noise, places, confidence),
        0 if shown else _rounds(int(noise.counts[places[best]]), ahead[best], (reach * errors)[best], allowed),
        deciding,
    )


def contenders(noise: Noise, places: Sequence[int], confidence: float) -> list[int]:
    """Return the places of the cells that may be the best, all of them with this confidence, best measured first."""
    means = noise.means[list(places)]
    errors, reach = _differences(noise, places, confidence)
    behind = (means[None, :] - means[:, None] - reach * errors).max(axis=1)
    return [places[place] for place in np.argsort(-means) if behind[place] <= 0]


def _differences(noise: Noise, places: Sequence[int], confidence: float) -> tuple[Numbers, Numbers]:
    """Return the standard error of the difference of any two cells, and how many of them a bound is away."""
    count = len(places)
    errors, reach = np.zeros((count, count)), np.zeros((count, count))
    servers, strata = noise.servers[list(places)], noise.strata[list(places)]
    kinds = {(strata[place], servers[place], noise.counts[places[place]]): place for place in range(count)}
    kind_of = np.array([list(kinds).index((strata[p], servers[p], noise.counts[places[p]])) for p in range(count)])
    table, factors = np.zeros((len(kinds),) * 2), np.zeros((len(kinds),) * 2)
    for row, one in enumerate(kinds.values()):
        for column, other in enumerate(kinds.values()):
            doubt = noise.of_difference(places[one], places[other])
            table[row, column] = math.sqrt(doubt.value) if doubt.value >= 0 else math.inf
            factors[row, column] = critical(count - 1, int(min(doubt.freedom + 1e-6, 1000)), confidence)
    errors, reach = table[np.ix_(kind_of, kind_of)], factors[np.ix_(kind_of, kind_of)]
    unknown = ~np.isfinite(errors) | ~np.isfinite(reach)
    errors[unknown], reach[unknown] = 1e9, 1.0
    return errors, reach


def _rounds(count: int, ahead: Numbers, reach: Numbers, allowed: float) -> int | None:
    """Return about how many rounds would show that the best measured is within the zone, all else as it is."""
    others = np.isfinite(ahead)
    needed = (reach[others] / (allowed - ahead[others])) ** 2
    rounds = math.ceil(float(needed.max(initial=0.0)) * count)
    return rounds if rounds <= MOST_ROUNDS else None
