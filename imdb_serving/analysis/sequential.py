"""Looking at results round after round: how sure each look must be, so that all of them together err as one would.

A group-sequential test with the spending function that is like O'Brien and Fleming's (A multiple testing procedure for
clinical trials, 1979; Lan and DeMets, Discrete sequential boundaries for clinical trials, 1983). The boundaries are
found by recursive integration (Armitage, McPherson and Rowe, 1969). Numbers in, numbers out.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

FIRST_LOOK = 2
"""Before the second round nothing tells noise from difference, and nothing is decided."""

POINTS = 1201
REACH = 8.0
"""Standard deviations to each side over which is integrated."""


def confidence_at(look: int, looks: int, confidence: float = 0.95) -> float:
    """Return the confidence that a look needs, one-sided, so that all `looks` together have the one given.

    Looks are equally far apart and counted from 1; a last look beyond the planned ones is as the planned last.
    """
    if look < FIRST_LOOK:
        return 1.0
    return 1.0 - _errors(looks, 1 - confidence)[min(look, looks) - 1]


def _spent(share: float, error: float) -> float:
    """Return how much of the error may be spent when this share of all rounds has been seen."""
    return 2 * float(ndtr(ndtri(error / 2) / math.sqrt(share)))


@functools.lru_cache(maxsize=256)
def _errors(looks: int, error: float) -> tuple[float, ...]:
    """Return each look's error: the chance of a statistic beyond its boundary, were it the only look."""
    found: list[float] = []
    at, density = np.zeros(1), np.ones(1)  # of the sum so far, of looks that did not cross; a point of weight 1
    spent = 0.0
    for look in range(1, looks + 1):
        grid = np.linspace(-REACH, REACH, POINTS) * math.sqrt(look)
        step = grid[1] - grid[0]
        density = _normal(grid[:, None] - at[None, :]) @ density
        allowed = _spent(look / looks, error) - spent if look >= FIRST_LOOK else 0.0
        boundary = math.inf if allowed <= 0 else _boundary(grid, density * step, allowed)
        spent += allowed
        found.append(float(ndtr(-boundary / math.sqrt(look))))
        density = np.where(grid < boundary, density, 0.0) * step
        at = grid
    return tuple(found)


def _boundary(grid: NDArray[np.float64], weights: NDArray[np.float64], allowed: float) -> float:
    """Return the sum that is exceeded with this probability."""
    beyond = np.cumsum(weights[::-1])[::-1]

    def missed(place: float) -> float:
        return float(np.log(np.interp(place, grid, beyond) + 1e-300) - math.log(allowed))

    return float(brentq(missed, grid[0], grid[-1]))


def _normal(values: NDArray[np.float64]) -> NDArray[np.float64]:
    density: NDArray[np.float64] = np.exp(-(values**2) / 2) / math.sqrt(2 * math.pi)
    return density
