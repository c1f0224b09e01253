"""Charts of latency: which share of the requests was answered by when, and one request's timeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from imdb_serving.analysis.cells import measured, valid
from imdb_serving.analysis.intervals import certified
from imdb_serving.cell import plural
from imdb_serving.errors import DataError
from imdb_serving.measurement.ledger import read_samples
from imdb_serving.messages import Reply
from imdb_serving.report import frames, tables
from imdb_serving.report.chart import Chart, Charts, Legend, Sheet
from imdb_serving.report.charts.curves import PlottedCurve, curves_legend, curves_of, data_attributes
from imdb_serving.report.charts.threads import NO_SERVER
from imdb_serving.report.style import stage_colours
from imdb_serving.report.timelines import CLIENT_STAGES, QUEUE, median_timeline, row_of
from imdb_serving.timing import NETWORK, WAYS

POINTS = 160
NARROW = 8.0
MARKS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
WHOLE = "client_infer_ns"


def ecdf(rows: pd.DataFrame, folder: Path, cells: pd.DataFrame | None = None) -> Charts:
    """Return how latencies are distributed, a chart an engine and client count: the fewest, and the best cell's."""
    cells = frames.cells(rows) if cells is None else cells
    if not tables.any_measured(rows, served=True):
        return Charts([], note=NO_SERVER)
    charts = []
    for panel in frames.panels(cells):
        served = [curve for curve in curves_of(cells, panel) if curve.threads]
        for count in _counts(served):
            times = {place: _times(rows, folder, curve, count) for place, curve in enumerate(served)}
            there = [(served[place], found) for place, found in times.items() if len(found)]
            if there:
                title = ", ".join(filter(None, [panel, plural(count, "client")]))
                charts.append(Chart(title, partial(_spread, there)))
    if not charts:
        return Charts([], note="The raw samples are not here, so no distribution can be drawn.")
    note = "All requests of all valid rounds together; a percentile is marked where enough requests stand behind it."
    return Charts(charts, Legend(curves_legend(cells)), note)


def _counts(curves: list[PlottedCurve]) -> list[int]:
    """Return the client counts to show of a panel."""
    if not curves:
        return []
    cells = pd.concat([curve.cells for curve in curves])
    best = int(cells.sort_values("throughput").iloc[-1]["client_threads"])
    return sorted({int(cells["client_threads"].min()), best})


def _times(rows: pd.DataFrame, folder: Path, curve: PlottedCurve, clients: int) -> NDArray[np.float64]:
    """Return the latencies of a curve's cell in milliseconds; empty where the cell or its samples are missing."""
    found: Any = curve.cells[curve.cells["client_threads"] == clients]
    own = measured(rows[rows["key"].isin(found["key"])])
    own = valid(own) if len(valid(own)) else own
    parts = []
    for raw in own["raw"]:
        try:
            parts.append(read_samples(folder, str(raw), [WHOLE])[WHOLE].to_numpy() / 1e6)
        except DataError:
            continue
    return np.concatenate(parts) if parts else np.empty(0)


def _spread(own: list[tuple[PlottedCurve, NDArray[np.float64]]], sheet: Sheet) -> None:
    axes = sheet.axes
    shares = np.unique(np.concatenate([np.linspace(0, 0.98, POINTS), 1 - np.geomspace(0.02, 0.0005, 40)]))
    for curve, times in own:
        (line,) = axes.plot(np.quantile(times, shares), shares * 100, ls=curve.dashes, color=curve.colour, lw=1.8)
        sheet.add_tooltips(line, (), data_attributes(curve))
        marks = {name: (share, certified(times, share)) for name, share in MARKS.items()}
        there = [(name, share, value) for name, (share, value) in marks.items() if value is not None]
        (dots,) = axes.plot(
            [value for _, _, value in there],
            [share * 100 for _, share, _ in there],
            curve.marker,
            color=curve.colour,
            ms=5,
        )
        told = [f"{curve.label}\n{name} {value:.3g} ms, n {len(times):,}" for name, _, value in there]
        sheet.add_tooltips(dots, told, data_attributes(curve))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes.get_xlim()
    narrow = high < NARROW * low  # decades and their halves would leave it without a number
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]) if narrow else LogLocator(subs=[1, 2, 5]))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("latency [ms]")
    axes.set_ylabel("requests answered by then [%]")
    axes.set_ylim(0, 101)


ROWS = ("client", "on its way", "waiting", "worker")


def timeline(rows: pd.DataFrame, folder: Path, key: str = "") -> Charts:
    """Return the timeline of a request of median length, of the cell with this key, by default of the fastest cell."""
    try:
        row = row_of(rows, key)
        one = median_timeline(folder, row)
    except DataError as error:
        return Charts([], note=f"No request can be drawn: {error}")
    clients = plural(int(row["client_threads"]), "client")
    servers = plural(int(row["server_threads"]), "server thread")
    title = ", ".join(filter(None, [f"One request: {row['line']}", str(row["panel"]), servers, clients]))
    note = "A request of median length. `imdb-serving trace` writes many, for Perfetto."
    return _request(title, [(part.name, part.start_ns, part.end_ns) for part in one.parts], note)


def of_reply(reply: Reply) -> Charts:
    """Return the timeline of a request by its answer."""
    return _request("One request", [(stage.name, stage.start_ns, stage.end_ns) for stage in reply.stages])


def _request(title: str, parts: Sequence[tuple[str, int, int]], note: str = "") -> Charts:
    """Return the timeline of a request from the names, starts and ends of its parts, in nanoseconds."""
    colours = stage_colours([name for name, _, _ in parts])
    chart = Chart(title, partial(_timeline, parts, colours), (7.6, 2.6))
    return Charts([chart], Legend([], [(name, colours[name]) for name, _, _ in parts]), note)


def _timeline(parts: Sequence[tuple[str, int, int]], colours: Mapping[str, str], sheet: Sheet) -> None:
    axes = sheet.axes
    first, last = min(start for _, start, _ in parts), max(end for _, _, end in parts)
    for name, starts, ends in parts:
        start, took = (starts - first) / 1000, (ends - starts) / 1000
        (bar,) = axes.barh([_row(name)], [took], 0.62, left=[start], color=colours[name])
        sheet.add_tooltips(bar, [f"{name}\n{took:,.1f} µs, from {start:,.1f} µs on"])
        if took > (last - first) / 1000 * 0.05:
            axes.text(start + took / 2, _row(name) - 0.42, name, ha="center", va="bottom", fontsize=8.5)
    axes.set_yticks(range(len(ROWS)), list(ROWS))
    axes.set_ylim(len(ROWS) - 0.5, -0.75)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=0)
    axes.set_xlabel("time since the request began [µs]")


def _row(name: str) -> int:
    if name in CLIENT_STAGES:
        return 0
    if name in {*WAYS, NETWORK}:
        return 1
    return 2 if name == QUEUE else 3
