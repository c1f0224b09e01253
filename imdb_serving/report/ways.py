"""The table below the verdict: what to run in each mode and with each engine. For a page and for a terminal."""

from __future__ import annotations

from typing import Any

import pandas as pd

from imdb_serving.analysis.bounds import CLIENTS, CORES, FRONT, NOTHING, UNKNOWN, WORKERS
from imdb_serving.report.answer import Place, Range, Way
from imdb_serving.report.naming import setup
from imdb_serving.report.tables import styled

LIMITS = {
    CORES: "cores",
    WORKERS: "workers",
    FRONT: "one interpreter",
    CLIENTS: "too few clients",
    NOTHING: "nothing is busy",
    UNKNOWN: "not known",
}

MARK = "*"


def table(ways: list[Way], *, by_cpu: bool = False) -> pd.DataFrame:
    """Return the ways as words, the recommended one marked; figures with their 95% intervals."""
    several = any(way.place.panel != way.place.setup for way in ways)
    rows = [
        {
            "": MARK if way.recommended else "",
            "mode": way.place.line,
            "with": setup(way.place),
            "threads": _threads(way.place, several),
            "clients": str(way.place.client_threads),
            "reviews/s": _rate(way.throughput),
            "p99 [ms]": _time(way.p99) if way.p99 else "not certifiable",
            "over the bare model [ms]": _time(way.cost.added) if way.cost else "not measured",
            **({"CPU [µs]": _rate(way.server_cpu_us)} if by_cpu and way.server_cpu_us else {}),
            "limit": LIMITS[way.limit],
            "best": "shown" if way.shown else "not shown",
        }
        for way in ways
    ]
    return pd.DataFrame(rows)


def _threads(place: Place, several: bool) -> str:
    """Return the server threads, times the math threads of each where those vary."""
    return f"{place.server_threads} x {place.math_threads} math" if several else str(place.server_threads)


def show(ways: list[Way], *, by_cpu: bool = False) -> Any:
    """Return the table styled for a page, the recommended row standing out."""
    found = table(ways, by_cpu=by_cpu)
    chosen = found[""] == MARK
    return styled(found).apply(lambda _: ["font-weight: bold" if mark else "" for mark in chosen], axis=0)


def caption(zone: float) -> str:
    """Say what the table shows."""
    return (
        f"What to run in each mode and with each engine ({MARK}: recommended; 95% intervals). The last column tells "
        f"whether it is shown to be within {zone:.0%} of the best of its row's mode and engine."
    )


def text(ways: list[Way], *, by_cpu: bool = False) -> str:
    """Return the table for a terminal, empty where there is nothing to tell."""
    if not ways:
        return ""
    found = table(ways, by_cpu=by_cpu)
    lines = [list(found.columns), *found.to_numpy().tolist()]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ([word.ljust(width) for word, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _rate(value: Range) -> str:
    return f"{value.value:,.0f}" + (f" ({value.low:,.0f} to {value.high:,.0f})" if value.low and value.high else "")


def _time(value: Range) -> str:
    between = "" if value.low is None or value.high is None else f" ({value.low:.2g} to {value.high:.2g})"
    return f"{value.value:.2g}{between}"
