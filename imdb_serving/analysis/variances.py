"""Variances that were found with few degrees of freedom: put together, moderated, and how far estimates may be off.

Knows numbers alone. `moderated` is after Smyth, Linear models and empirical Bayes methods (2004), as in limma's
squeezeVar; degrees of freedom of sums after Satterthwaite (1946); `critical` after Dunnett, A multiple comparison
procedure (1955).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, digamma, ndtr, polygamma, stdtrit

LEAST = 1e-6
"""The least variance of logarithms: rounds that agree better than by 0.1 % do so by luck."""

LEAST_FREEDOM = 0.5
"""Degrees of freedom below which a variance says nothing of its own."""


class Variance(NamedTuple):
    """A variance, and the degrees of freedom with which it was found; 0 where nothing was."""

    value: float
    freedom: float


UNKNOWN = Variance(math.nan, 0.0)


def combined(parts: Iterable[tuple[float, Variance]]) -> Variance:
    """Return the sum of weighted variances, its degrees of freedom after Satterthwaite."""
    terms = [(weight * part.value, part.freedom) for weight, part in parts if weight]
    total = sum(value for value, _ in terms)
    doubt = sum(value**2 / freedom for value, freedom in terms if value and freedom)
    if not total or not doubt:
        return Variance(total, min((freedom for _, freedom in terms), default=0.0))
    return Variance(total, total**2 / doubt)


def moderated(found: Sequence[Variance]) -> list[Variance]:
    """Return the variances drawn towards what they have in common, as far as they differ no more than chance explains.

    One of few degrees of freedom is drawn further. A variance without any becomes the common one.
    """
    found = [Variance(max(one.value, LEAST), one.freedom) if one.freedom else one for one in found]
    known = [one for one in found if one.freedom >= LEAST_FREEDOM]
    if not known:
        return found
    pooled = sum(one.freedom for one in known)
    prior = _prior(known)
    result = []
    for one in found:
        own = one if one in known else Variance(0.0, 0.0)
        if math.isinf(prior.freedom):
            result.append(Variance(prior.value, pooled))
            continue
        freedom = prior.freedom + own.freedom
        value = (prior.freedom * prior.value + own.freedom * own.value) / freedom
        result.append(Variance(value, min(freedom, pooled)))
    return result


def _prior(known: Sequence[Variance]) -> Variance:
    """Return the common variance, and how many degrees of freedom it is worth; infinite where one variance fits all."""
    values, freedoms = (np.array(column, dtype=float) for column in zip(*known, strict=True))
    pooled = float((values * freedoms).sum() / freedoms.sum())
    if len(known) < 2:
        return Variance(pooled, math.inf)
    logs = np.log(values) - digamma(freedoms / 2) + np.log(freedoms / 2)
    spread = float(logs.var(ddof=1) - polygamma(1, freedoms / 2).mean())
    if spread <= 0:
        return Variance(pooled, math.inf)
    half = _inverse_trigamma(spread)
    return Variance(float(np.exp(logs.mean() + digamma(half) - math.log(half))), 2 * half)


def _inverse_trigamma(value: float) -> float:
    low, high = 1e-6, 1e12
    if value >= polygamma(1, low):
        return low
    if value <= polygamma(1, high):
        return high
    return math.exp(float(brentq(lambda place: polygamma(1, math.exp(place)) - value, math.log(low), math.log(high))))


def student(freedom: float, confidence: float) -> float:
    """Return how many standard errors an interval reaches to each side."""
    return float(stdtrit(freedom, (1 + confidence) / 2)) if freedom > 0 else math.inf


_NORMAL, _NORMAL_WEIGHTS = np.polynomial.hermite_e.hermegauss(48)
_UNIFORM, _UNIFORM_WEIGHTS = np.polynomial.legendre.leggauss(24)


@functools.lru_cache(maxsize=4096)
def critical(others: int, freedom: int, confidence: float) -> float:
    """Return Dunnett's one-sided critical value, for comparisons of one estimate with so many others.

    All differences are taken as correlated by a half, as those of independent estimates of one precision are.
    """
    if others < 1:
        return 0.0
    if freedom < 1:
        return math.inf
    scales = np.sqrt(chdtri(freedom, 1 - (_UNIFORM + 1) / 2) / freedom)[:, None]
    weights: Any = (_UNIFORM_WEIGHTS / 2)[:, None] * (_NORMAL_WEIGHTS / _NORMAL_WEIGHTS.sum())

    def missed(reach: float) -> float:
        return float((weights * ndtr(_NORMAL + math.sqrt(2) * reach * scales) ** others).sum()) - confidence

    return float(brentq(missed, 0.0, 1e4, xtol=1e-4))
