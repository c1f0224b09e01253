"""Time and throughput against threads, a chart an engine. Draws with the same functions as the figures for papers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.ticker import FuncFormatter

from imdb_serving.bench.analysis.reference import SAMPLES
from imdb_serving.report import curves, frames, limits, tables
from imdb_serving.report.charts.chart import Chart, Charts, Sheet, sheet
from imdb_serving.report.charts.key import Key
from imdb_serving.report.curves import Drawn
from imdb_serving.report.plots import client_axis, log_axes

PUBLISHED = "published"
NO_CLOSED_LOOP = "Not measured: no cell with `arrivals: closed` has figures."
NO_SERVER = "Not measured: no cell with a server and `arrivals: closed` has figures."


def time(rows: pd.DataFrame, folder: Path) -> Charts:
    """Return the total time against client threads, the published curves in grey."""
    cells = frames.cells(rows)
    if cells.empty:
        return Charts([], note=NO_CLOSED_LOOP)
    rpc, flask, samples = tables.published_rpc(), tables.published_flask(), int(cells["samples"].iloc[0])
    clients = sorted({*cells["client_threads"], *rpc["client_threads"], *flask["client_threads"]})
    charts, grey = [], []
    for panel in frames.panels(cells):
        with sheet() as page:
            grey = curves.draw_published(page.axes, rpc, flask, samples)
            _tell_published(page, samples)
            _draw(page, cells, panel, "total_s")
            log_axes(page.axes, clients, "total time per client [s]")
            charts.append(page.chart(_title("Time", panel)))
    return Charts(charts, Key([*curves.curves_key(cells), *grey]), frames.machine_note(rows, folder))


def throughput(rows: pd.DataFrame, folder: Path) -> Charts:
    """Return samples a second against client threads, with 95 % intervals, bounds, the law and the knees."""
    cells = frames.cells(rows)
    if cells.empty:
        return Charts([], note=NO_CLOSED_LOOP)
    found = limits.curves(rows, cells, folder)
    charts: list[Chart] = []
    fitted = False
    for panel in frames.panels(cells):
        with sheet() as page:
            _draw(page, cells, panel, "throughput")
            fitted |= curves.draw_bounds(page.axes, cells, panel, found)
            page.axes.set_xscale("log", base=2)
            client_axis(page.axes, sorted(set(cells["client_threads"])))
            page.axes.set_ylim(bottom=0)
            page.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            page.axes.set_ylabel("throughput [samples/s]")
            charts.append(page.chart(_title("Throughput", panel)))
    handles = [*curves.curves_key(cells), *curves.bounds_key(fitted=fitted)]
    return Charts(charts, Key(handles), frames.machine_note(rows, folder))


def _title(what: str, panel: str) -> str:
    return f"{what}, {panel}" if panel else what


def _draw(page: Sheet, cells: pd.DataFrame, panel: str, column: str) -> None:
    for curve in curves.curves_of(cells, panel):
        line, *others = curves.draw_curve(page.axes, curve, column)
        page.tell(line, [words(curve, cell) for _, cell in curve.cells.iterrows()], data_of(curve))
        for other in others:
            page.tell(other, (), data_of(curve))


def data_of(curve: Drawn) -> dict[str, str]:
    """Return by what a reader can hide a curve."""
    first = curve.cells.iloc[0]
    return {"mode": str(first["mode"]), "engine": str(first["engine"])}


def words(curve: Drawn, cell: Any) -> str:
    """Return what a cell says on hover."""
    low, high = cell["throughput_low"], cell["throughput_high"]
    between = f" ({low:,.0f} to {high:,.0f})" if math.isfinite(low) else ""
    tails = {"p50": cell["p50_us"], "p95": cell["p95_us"], "p99": cell["p99_us"]}
    latency = ", ".join(f"{name} {value / 1000:.3g} ms" for name, value in tails.items() if not pd.isna(value))
    told = [
        f"{curve.label}, {cell['engine']}, {cell['client_threads']} clients",
        f"{cell['throughput']:,.0f} samples/s{between}",
        f"{cell['total_s']:.3g} s a client",
        latency,
        "" if cell["valid"] else f"not valid: {cell['why']}",
    ]
    return "\n".join(filter(None, told))


def _tell_published(page: Sheet, samples: int) -> None:
    scaled = "" if samples == SAMPLES else f", scaled to {samples:,} samples"
    for line in page.axes.get_lines():
        places: Any = line.get_xydata()
        told = [f"{line.get_label()!s}, {clients:.0f} clients: {time:.3g} s{scaled}" for clients, time in places]
        page.tell(line, told, {"mode": PUBLISHED})
