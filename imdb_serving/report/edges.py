"""Whether a best cell lies at the edge of what was measured, and the command that measures beyond."""

from __future__ import annotations

import shlex
from typing import Any

import pandas as pd
import yaml

from imdb_serving.cell import Cell, varying
from imdb_serving.report.answer import Edge, Place

AXES = ("server_threads", "math_threads", "client_threads")


def edges_of(grid: pd.DataFrame, places: list[Place], command: str) -> list[Edge]:
    """Return the curves of the grid at whose edge these cells lie, each once, by the first cell at it.

    A curve is all threads and clients of one mode and engine; math threads that did not vary have no edge.
    """
    told = [name for name in varying(list(grid["cell"])) if name in ENTRIES]
    curves = dict.fromkeys((place.line, place.setup) for place in places)
    found = []
    for line, setup in curves:
        alike = grid[(grid["line"] == line) & (grid["setup"] == setup)]
        axes = [axis for axis in AXES if axis != "math_threads" or alike[axis].min() < alike[axis].max()]
        measured = {axis: int(alike[axis].max()) for axis in axes}
        own = [place for place in places if (place.line, place.setup) == (line, setup)]
        ends = {axis: most for axis, most in measured.items() if any(getattr(one, axis) == most for one in own)}
        if not ends:
            continue
        entry = _entry(alike["cell"].iloc[0], told) | _beyond(alike[axes], ends)
        words = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=10_000).strip()
        first = next(one for one in own if any(getattr(one, axis) == most for axis, most in ends.items()))
        found.append(Edge(place=first, measured=ends, command=f"{command} --also {shlex.quote(words)}"))
    return found


def _beyond(measured: pd.DataFrame, ends: dict[str, int]) -> dict[str, list[int]]:
    """Return the counts to measure next: twice the most of each axis whose end was reached, those of the others."""
    first = next(iter(ends))
    found = {}
    for axis in map(str, measured):
        counts = [] if axis == first else sorted({int(count) for count in measured[axis]})
        found[axis] = [*counts, *([2 * ends[axis]] if axis in ends else [])]
    return found


ENTRIES = {
    "mode": "mode", "engine": "engine", "net": "net", "batch": "batch", "client_kind": "http_client",
    "worker_kind": "worker_kind", "math_threads": "math_threads", "pipeline": "pipeline", "passes": "passes",
    "placement": "placement",
}  # fmt: skip
"""The fields of a cell that an entry of `also` may have, and their names there."""


def _entry(cell: Cell, told: list[str]) -> dict[str, Any]:
    """Return the parameters that make a grid of such cells within their own sweep."""
    names = dict.fromkeys(["mode", "engine", *told])
    values = {ENTRIES[name]: getattr(cell, name) for name in names}
    server = {"server": {"name": cell.server}} if cell.server else {}
    return {name: value for name, value in values.items() if value != ""} | server
