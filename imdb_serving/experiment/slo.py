"""Searches the highest rate and the most closed-loop clients that hold a latency limit.

Owns the search; what a probe measures is given. Every load is probed several times: at one end of the interval all
probes held, at the other all failed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from imdb_serving.analysis.intervals import needed
from imdb_serving.cell import Row

CLOSE_ENOUGH = 1.05
"""The ratio of failing to holding load at which the search ends."""

STEPS = 10
CLIFF = 5.0
"""Per cent that latency grows with one per cent more load, from which on the edge is a cliff."""

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


class Limit(NamedTuple):
    """What has to hold: a percentile of latency in milliseconds, and the share of requests without an answer."""

    percentile: str
    most_ms: float
    errors: float = 0.0

    @property
    def requests(self) -> int:
        """How many requests a probe needs to certify the percentile."""
        return needed(PERCENTILES[self.percentile])

    def __str__(self) -> str:
        return f"{self.percentile} of at most {self.most_ms:g} ms with at most {self.errors:.2%} errors"


class Probe(NamedTuple):
    """One load, as often as it was measured: how often it held, and the greatest latency of the limit's percentile."""

    load: float
    held: int
    of: int
    worst_ms: float
    why: str

    @property
    def holds(self) -> bool:
        """True when it held every time."""
        return self.held == self.of


class Edge(NamedTuple):
    """Where the limit breaks: the highest load that held every time (None when none did), the lowest that never did.

    `growth` is by how many per cent latency grows with one per cent more load between the two; infinite where requests
    failed or the rate was not reached.
    """

    holds: float | None
    breaks: float | None
    growth: float
    probes: tuple[Probe, ...]

    @property
    def shape(self) -> str:
        """A slope, where a little more load costs a little more; a cliff, where it costs everything."""
        return "cliff" if self.growth >= CLIFF else "slope"


def holds(row: Row, limit: Limit) -> tuple[bool, float, str]:
    """Tell whether a measured row holds a limit, with its latency in milliseconds and what broke it."""
    latency = getattr(row.figures, f"{limit.percentile}_us")
    worst = math.inf if latency is None else latency / 1000
    lost = (row.failed_requests + row.unsent) / max(row.requests, 1)
    if lost > limit.errors:
        return False, worst, f"{lost:.1%} of the requests got no answer"
    others = [finding for finding in row.findings if finding.gate not in {"errors", "alone"}]
    if others:
        return False, worst, str(others[0])
    if latency is None:
        return False, worst, f"{limit.percentile} not certifiable with n {row.requests}"
    return worst <= limit.most_ms, worst, f"{limit.percentile} {worst:.3g} ms"


def find_edge(probe: Callable[[float], Probe], low: float, high: float, *, whole: bool = False) -> Edge:
    """Search between two loads for the one at which probes cease to hold, in at most `STEPS` more of them.

    `whole` loads are numbers of clients. Below `low` nothing is tried; a `high` that holds is the answer.
    """
    first = probe(low)
    if not first.holds:
        return Edge(None, low, math.inf, (first,))
    last = probe(high)
    if last.holds:
        return Edge(high, None, 0.0, (first, last))
    probes, lower, upper = [first, last], first, last
    for _ in range(STEPS):
        middle = math.sqrt(lower.load * upper.load)
        if whole:
            middle = float(round(middle))
        close = upper.load - lower.load <= 1 if whole else upper.load / lower.load <= CLOSE_ENOUGH
        if close or middle in {lower.load, upper.load}:
            break
        tried = probe(middle)
        probes.append(tried)
        if tried.holds:
            lower = tried
        else:
            upper = tried
    broken = [one for one in probes if one.load > lower.load and not one.held]
    breaks = min(broken, key=lambda one: one.load).load if broken else None
    return Edge(lower.load, breaks, _growth(lower, upper), tuple(sorted(probes)))


def _growth(lower: Probe, upper: Probe) -> float:
    if not (math.isfinite(upper.worst_ms) and lower.worst_ms > 0 and upper.load > lower.load):
        return math.inf
    return math.log(upper.worst_ms / lower.worst_ms) / math.log(upper.load / lower.load)
