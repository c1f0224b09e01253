"""Latency as a whole: which share of the requests was answered by when. Reads the raw samples; knows no verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from imdb_serving.bench.analysis.cells import measured, valid
from imdb_serving.bench.analysis.percentiles import certified
from imdb_serving.bench.cell import plural
from imdb_serving.bench.record.samples import read_samples
from imdb_serving.errors import DataError
from imdb_serving.report import frames, tables
from imdb_serving.report.charts.chart import Chart, Charts, sheet
from imdb_serving.report.charts.curves import NO_SERVER, data_of
from imdb_serving.report.charts.key import Key
from imdb_serving.report.curves import Drawn, curves_key, curves_of

POINTS = 160
NARROW = 8.0
MARKS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
WHOLE = "client_infer_ns"


def ecdf(rows: pd.DataFrame, folder: Path) -> Charts:
    """Return how latencies are spread, a chart an engine and client count: the fewest, and where most was given."""
    cells = frames.cells(rows)
    if not tables.any_measured(rows, served=True):
        return Charts([], note=NO_SERVER)
    charts = []
    for panel in frames.panels(cells):
        served = [curve for curve in curves_of(cells, panel) if curve.threads]
        for count in _counts(served):
            times = {place: _times(rows, folder, curve, count) for place, curve in enumerate(served)}
            if any(len(found) for found in times.values()):
                charts.append(
                    _chart(panel, count, [(served[place], found) for place, found in times.items() if len(found)])
                )
    if not charts:
        return Charts([], note="The raw samples are not here, so no distribution can be drawn.")
    note = "All requests of all valid rounds together; a percentile is marked where enough requests stand behind it."
    return Charts(charts, Key(curves_key(cells)), note)


def _counts(curves: list[Drawn]) -> list[int]:
    """Return the client counts to show of a panel."""
    if not curves:
        return []
    cells = pd.concat([curve.cells for curve in curves])
    best = int(cells.sort_values("throughput").iloc[-1]["client_threads"])
    return sorted({int(cells["client_threads"].min()), best})


def _times(rows: pd.DataFrame, folder: Path, curve: Drawn, clients: int) -> NDArray[np.float64]:
    """Return the latencies of a curve's cell in milliseconds; none where it, or its samples, are not there."""
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


def _chart(panel: str, clients: int, own: list[tuple[Drawn, NDArray[np.float64]]]) -> Chart:
    with sheet() as page:
        axes = page.axes
        shares = np.unique(np.concatenate([np.linspace(0, 0.98, POINTS), 1 - np.geomspace(0.02, 0.0005, 40)]))
        for curve, times in own:
            (line,) = axes.plot(np.quantile(times, shares), shares * 100, ls=curve.dashes, color=curve.colour, lw=1.8)
            page.tell(line, (), data_of(curve))
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
            page.tell(dots, told, data_of(curve))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        low, high = axes.get_xlim()
        narrow = high < NARROW * low  # decades and their halves would leave it without a number
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]) if narrow else LogLocator(subs=[1, 2, 5]))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("latency [ms]")
        axes.set_ylabel("requests answered by then [%]")
        axes.set_ylim(0, 101)
        return page.chart(", ".join(filter(None, [panel, plural(clients, "client")])))
