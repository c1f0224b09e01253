"""Charts of time and throughput against threads, and a heat map of server threads against client threads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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


def time(rows: pd.DataFrame, folder: Path, cells: pd.DataFrame | None = None) -> Charts:
    """Return the total time against client threads, the published curves in grey."""
    cells = frames.cells(rows) if cells is None else cells
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


def throughput(rows: pd.DataFrame, folder: Path, cells: pd.DataFrame | None = None) -> Charts:
    """Return samples a second against client threads, with 95 % intervals, bounds, the law and the knees."""
    cells = frames.cells(rows) if cells is None else cells
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


class _Field(NamedTuple):
    """One cell of a map: its place, and what stands in it."""

    across: int
    up: tuple[int, int]
    curve: PlottedCurve
    cell: Any
    clients: str = ""


def heat(rows: pd.DataFrame, folder: Path, cells: pd.DataFrame | None = None) -> Charts:
    """Return a map for each mode and engine that was measured with several counts of threads; else for all.

    Where math threads vary, a map of server threads against math threads stands before it, of the best client counts.
    """
    cells = frames.cells(rows) if cells is None else cells
    groups: dict[tuple[str, str], list[PlottedCurve]] = {}
    for panel in frames.panels(cells):
        for curve in curves_of(cells, panel):
            if curve.threads:
                groups.setdefault((str(curve.cells["setup"].iloc[0]), curve.line), []).append(curve)
    if not groups:
        return Charts([], note=NO_SERVER)
    several = {name: own for name, own in groups.items() if len(own) > 1}
    charts = [chart for (setup, line), own in (several or groups).items() for chart in _maps(setup, line, own)]
    note = "The lighter, the more samples a second; * marks the most, a hatched field is not valid."
    left = len(groups) - len(several or groups)
    if left:
        note += f" {left} of one server-thread count {'is' if left == 1 else 'are'} left out."
    if shared := frames.machine_note(rows, folder):
        note += f" {shared[:1].upper()}{shared[1:]}."
    return Charts(charts, note=note)


def _maps(setup: str, line: str, own: list[PlottedCurve]) -> Iterator[Chart]:
    """Yield the maps of one mode and engine."""
    several_math = len({curve.math for curve in own}) > 1
    title = ", ".join(filter(None, [f"{line}: samples/s", setup]))
    if several_math and len({curve.threads for curve in own}) > 1:
        best = [(curve, curve.cells.sort_values("throughput").iloc[-1]) for curve in own]
        fields = [
            _Field(curve.math, (curve.threads, 0), curve, cell, f"{cell['client_threads']}") for curve, cell in best
        ]
        yield _map(f"{title}, at the best number of clients (in brackets)", "math threads", "server threads", fields)
    fields = [
        _Field(int(cell["client_threads"]), (curve.threads, curve.math if several_math else 0), curve, cell)
        for curve in own
        for _, cell in curve.cells.iterrows()
    ]
    yield _map(title, "client threads", "server threads" + (" x math threads" if several_math else ""), fields)


def _map(title: str, across: str, up: str, fields: list[_Field]) -> Chart:
    columns, lines = (len({getattr(field, name) for field in fields}) for name in ("across", "up"))
    return Chart(title, partial(_draw_map, fields, across, up), (1.3 + 0.62 * columns, 1.0 + 0.52 * lines))


def _draw_map(fields: list[_Field], xlabel: str, ylabel: str, sheet: Sheet) -> None:
    axes = sheet.axes
    across, up = sorted({field.across for field in fields}), sorted({field.up for field in fields})
    highest = max(float(field.cell["throughput"]) for field in fields)
    colours, scale = mpl.colormaps[MAP], Normalize(0, highest)
    for field in fields:
        column, row, value = across.index(field.across), up.index(field.up), float(field.cell["throughput"])
        (drawn,) = axes.bar([column], [1], 1, [row - 0.5], color=colours(scale(value)), edgecolor=axes.get_facecolor())
        if not field.cell["valid"]:
            drawn.set_hatch("///")
        sheet.add_tooltips(drawn, [words(field.curve, field.cell)], data_attributes(field.curve))
        ink = "white" if value < DARK * highest else "black"
        text = f"{_short(value)}{'*' if value == highest else ''}"
        if field.clients:
            text += f"\n({field.clients})"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks(np.arange(len(across)), [str(count) for count in across])
    axes.set_yticks(np.arange(len(up)), [f"{servers} x {math}" if math else str(servers) for servers, math in up])
    axes.set_xlim(-0.5, len(across) - 0.5)
    axes.set_ylim(-0.5, len(up) - 0.5)
    axes.grid(visible=False)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)


def _short(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:,.0f}"
