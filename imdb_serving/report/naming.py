"""How cells are named in sentences."""

from __future__ import annotations

from imdb_serving.cell import listed, plural
from imdb_serving.report.answer import Place

NAMED = 3
"""Of a list of cells, so many are named; the others are counted."""


def name(place: Place) -> str:
    """Name a cell."""
    return f"{way(place)}, {_counts(place)}"


def way(place: Place) -> str:
    """Name a mode and engine."""
    return ", ".join(filter(None, [place.line, setup(place)]))


def setup(place: Place) -> str:
    """Name what a way runs, its engine at least; empty where that is not known."""
    return place.setup or (f"engine {place.engine}" if place.engine else "")


def _counts(place: Place) -> str:
    threads = plural(place.server_threads, "server thread")
    if place.panel != place.setup:
        threads += f" x {plural(place.math_threads, 'math thread')}"
    return f"{threads}, {plural(place.client_threads, 'client')}"


def short(place: Place, beside: Place) -> str:
    """Name a cell beside another: `2 x 6`, with math threads, mode and engine where these differ."""
    counts = f"{place.server_threads} x {place.client_threads}"
    if place.math_threads != beside.math_threads:
        counts += f" with {plural(place.math_threads, 'math thread')}"
    if (place.line, place.setup) == (beside.line, beside.setup):
        return counts
    return f"{way(place).replace('engine ', '')} {counts}"


def several(places: list[Place], beside: Place) -> str:
    """Name some cells, and count the others."""
    names = [short(place, beside) for place in places[:NAMED]]
    more = len(places) - len(names)
    return listed([*names, *([f"{more} more"] if more else [])])
