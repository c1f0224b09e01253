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

UNKNOWN_MARGIN = 1e9
"""Of a difference of logarithms of which nothing is known."""

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
    means, ahead, margins = _ahead(noise, places, confidence)
    upper = _most_behind(ahead, margins)
    behind = (ahead - margins).max(axis=1)
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
        Estimate(
            *(-math.expm1(-value) for value in (means[best] - means[chosen], max(behind[chosen], 0.0), upper[chosen]))
        ),
        _may_be_best(places, means, behind),
        0 if shown else _rounds(int(noise.counts[places[best]]), ahead[best], margins[best], allowed),
        deciding,
    )


def within(noise: Noise, places: Sequence[int], zone: float, confidence: float = CONFIDENCE) -> list[int]:
    """Return the places of the cells that are shown, all together, to fall short of the best by no more than a zone."""
    _, ahead, margins = _ahead(noise, places, confidence)
    return [places[int(number)] for number in np.flatnonzero(_most_behind(ahead, margins) <= -math.log1p(-zone))]


def _most_behind(ahead: Numbers, margins: Numbers) -> Numbers:
    most: Numbers = np.maximum((ahead + margins).max(axis=1), 0.0)  # -inf, and so 0, where there is no other
    return most


def contenders(noise: Noise, places: Sequence[int], confidence: float) -> list[int]:
    """Return the places of the cells that may be the best, all of them with this confidence, best measured first."""
    means, ahead, margins = _ahead(noise, places, confidence)
    return _may_be_best(places, means, (ahead - margins).max(axis=1))


def _may_be_best(places: Sequence[int], means: Numbers, behind: Numbers) -> list[int]:
    return [places[number] for number in np.argsort(-means) if behind[number] <= 0]


def _ahead(noise: Noise, places: Sequence[int], confidence: float) -> tuple[Numbers, Numbers, Numbers]:
    """Return the cells' means, by how much each (column) exceeds each (row), and how far that may be off."""
    means = noise.means[list(places)]
    ahead = means[None, :] - means[:, None]
    np.fill_diagonal(ahead, -math.inf)
    return means, ahead, _margins(noise, places, confidence)


def _margins(noise: Noise, places: Sequence[int], confidence: float) -> Numbers:
    """Return how far the difference of any two cells may be off, all at once; huge where nothing is known."""
    alike: dict[tuple[int, bytes], int] = {}  # cells of one server process and the same rounds: a number, and the first
    first: list[int] = []
    kind_of = np.empty(len(places), dtype=np.int64)
    for number, place in enumerate(places):
        kind = int(noise.servers[place]), noise.shares[place].tobytes()
        if kind not in alike:
            alike[kind] = len(first)
            first.append(place)
        kind_of[number] = alike[kind]
    margins = np.full((len(first),) * 2, UNKNOWN_MARGIN)
    for row, one in enumerate(first):
        for column, other in enumerate(first):
            doubt = noise.of_difference(one, other)
            if not doubt.freedom > 0:  # NaN as well
                continue
            factor = critical(len(places) - 1, int(min(doubt.freedom + 1e-6, 1000)), confidence)
            if doubt.value >= 0 and math.isfinite(factor):
                margins[row, column] = factor * math.sqrt(doubt.value)
    table: Numbers = margins[np.ix_(kind_of, kind_of)]
    return table


def _rounds(count: int, ahead: Numbers, margins: Numbers, allowed: float) -> int | None:
    """Return about how many rounds would show that the best measured is within the zone, all else as it is."""
    others = np.isfinite(ahead)
    needed = (margins[others] / (allowed - ahead[others])) ** 2
    rounds = math.ceil(float(needed.max(initial=0.0)) * count)
    return rounds if rounds <= MOST_ROUNDS else None
