"""Charts of time and throughput against threads, and a heat map of server threads against client threads."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter

from imdb_serving.analysis.published import SAMPLES
from imdb_serving.analysis.usl import Curve
from imdb_serving.report import costs, frames, tables
from imdb_serving.report.chart import Chart, Charts, Legend, Sheet
from imdb_serving.report.charts import curves
from imdb_serving.report.charts.curves import PlottedCurve, curves_of, data_attributes
from imdb_serving.report.style import client_axis, log_axes

PUBLISHED = "published"
NO_CLOSED_LOOP = "Not measured: no cell with `arrivals: closed` has figures."
NO_SERVER = "Not measured: no cell with a server and `arrivals: closed` has figures."


def time(rows: pd.DataFrame, folder: Path) -> Charts:
    """Return the total time against client threads, the published curves in grey."""
    cells = frames.cells(rows)
    if cells.empty:
        return Charts([], note=NO_CLOSED_LOOP)
    samples = int(cells["samples"].iloc[0])
    charts = [Chart(_title("Time", panel), partial(_time, cells, panel, samples)) for panel in frames.panels(cells)]
    grey = curves.published_legend(tables.published_rpc(), samples)
    return Charts(charts, Legend([*curves.curves_legend(cells), *grey]), frames.machine_note(rows, folder))


def _time(cells: pd.DataFrame, panel: str, samples: int, sheet: Sheet) -> None:
    rpc, flask = tables.published_rpc(), tables.published_flask()
    scaled = "" if samples == SAMPLES else f", scaled to {samples:,} samples"
    for line in curves.draw_published(sheet.axes, rpc, flask, samples):
        places: Any = line.get_xydata()
        told = [f"{line.get_label()!s}, {clients:.0f} clients: {time:.3g} s{scaled}" for clients, time in places]
        sheet.add_tooltips(line, told, {"mode": PUBLISHED})
    _draw(sheet, cells, panel, "total_s")
    clients = sorted({*cells["client_threads"], *rpc["client_threads"], *flask["client_threads"]})
    log_axes(sheet.axes, clients, "total time per client [s]")


def throughput(rows: pd.DataFrame, folder: Path) -> Charts:
    """Return samples a second against client threads, with 95 % intervals, bounds, the law and the knees."""
    cells = frames.cells(rows)
    if cells.empty:
        return Charts([], note=NO_CLOSED_LOOP)
    found, panels = costs.curves(rows, cells, folder), frames.panels(cells)
    charts = [Chart(_title("Throughput", panel), partial(_throughput, cells, panel, found)) for panel in panels]
    best = [curves.best_curve(cells, panel, found) for panel in panels]
    fitted = any(one is not None and curves.has_law(one[1]) for one in best)
    handles = [*curves.curves_legend(cells), *curves.bounds_legend(fitted=fitted)]
    return Charts(charts, Legend(handles), frames.machine_note(rows, folder))


def _throughput(cells: pd.DataFrame, panel: str, found: dict[tuple[str, str, int], Curve], sheet: Sheet) -> None:
    _draw(sheet, cells, panel, "throughput")
    curves.draw_bounds(sheet.axes, cells, panel, found)
    sheet.axes.set_xscale("log", base=2)
    client_axis(sheet.axes, sorted(set(cells["client_threads"])))
    sheet.axes.set_ylim(bottom=0)
    sheet.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    sheet.axes.set_ylabel("throughput [samples/s]")


def _title(what: str, panel: str) -> str:
    return f"{what}, {panel}" if panel else what


def _draw(sheet: Sheet, cells: pd.DataFrame, panel: str, column: str) -> None:
    for curve in curves.curves_of(cells, panel):
        line, *others = curves.draw_curve(sheet.axes, curve, column)
        sheet.add_tooltips(line, [words(curve, cell) for _, cell in curve.cells.iterrows()], data_attributes(curve))
        for other in others:
            sheet.add_tooltips(other, (), data_attributes(curve))


def words(curve: PlottedCurve, cell: Any) -> str:
    """Return a cell's tooltip."""
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


MAP = "cividis"
DARK = 0.55
"""Up to this share of the highest throughput a field is so dark that its number must be light."""


def heat(rows: pd.DataFrame, folder: Path) -> Charts:
    """Return a map for each mode and engine that was measured with several server-thread counts; else for all."""
    cells = frames.cells(rows)
    groups: dict[tuple[str, str], list[PlottedCurve]] = {}
    for panel in frames.panels(cells):
        for curve in curves_of(cells, panel):
            if curve.threads:
                groups.setdefault((panel, curve.line), []).append(curve)
    if not groups:
        return Charts([], note=NO_SERVER)
    several = {name: own for name, own in groups.items() if len(own) > 1}
    charts = [_map(panel, line, own) for (panel, line), own in (several or groups).items()]
    note = "The lighter, the more samples a second; * marks the most, a hatched field is not valid."
    left = len(groups) - len(charts)
    if left:
        note += f" {left} of one server-thread count {'is' if left == 1 else 'are'} left out."
    if shared := frames.machine_note(rows, folder):
        note += f" {shared[:1].upper()}{shared[1:]}."
    return Charts(charts, note=note)


def _map(panel: str, line: str, own: list[PlottedCurve]) -> Chart:
    clients = sorted({count for curve in own for count in curve.clients})
    title = ", ".join(filter(None, [f"{line}: samples/s", panel]))
    return Chart(title, partial(_draw_map, own, clients), (1.3 + 0.62 * len(clients), 1.0 + 0.52 * len(own)))


def _draw_map(own: list[PlottedCurve], clients: list[int], sheet: Sheet) -> None:
    axes = sheet.axes
    highest = max(float(curve.cells["throughput"].max()) for curve in own)
    colours, scale = mpl.colormaps[MAP], Normalize(0, highest)
    for row, curve in enumerate(own):
        for _, cell in curve.cells.iterrows():
            column, value = clients.index(int(cell["client_threads"])), float(cell["throughput"])
            (field,) = axes.bar(
                [column], [1], 1, [row - 0.5], color=colours(scale(value)), edgecolor=axes.get_facecolor()
            )
            if not cell["valid"]:
                field.set_hatch("///")
            sheet.add_tooltips(field, [words(curve, cell)], data_attributes(curve))
            ink = "white" if value < DARK * highest else "black"
            mark = "*" if value == highest else ""
            axes.text(column, row, f"{_short(value)}{mark}", ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks(np.arange(len(clients)), [str(count) for count in clients])
    axes.set_yticks(np.arange(len(own)), [str(curve.threads) for curve in own])
    axes.set_xlim(-0.5, len(clients) - 0.5)
    axes.set_ylim(-0.5, len(own) - 0.5)
    axes.grid(visible=False)
    axes.set_xlabel("client threads")
    axes.set_ylabel("server threads")


def _short(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:,.0f}"
