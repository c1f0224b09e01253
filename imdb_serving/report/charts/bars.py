"""Bar charts: the stages of a request, and the CPU time of a request by who took it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from imdb_serving.cell import LOCAL_MODES, plural
from imdb_serving.report import costs, frames, tables
from imdb_serving.report.chart import Chart, Charts, Legend, Sheet
from imdb_serving.report.charts.curves import PlottedCurve, curves_of, data_attributes
from imdb_serving.report.charts.threads import NO_SERVER
from imdb_serving.report.style import COLOURS, stage_colours, used

SMALL = 3.6, 3.0
NOT_KNOWN = "The servers' CPU time is not known: their processes cannot be seen from here."


def stages(rows: pd.DataFrame, folder: Path, cells: pd.DataFrame | None = None) -> Charts:
    """Return the mean stages of a request against clients, stacked; charts of one engine have one scale."""
    cells = frames.cells(rows) if cells is None else cells
    if not tables.any_measured(rows, served=True):
        return Charts([], note=NO_SERVER)
    charts, seen = [], []
    for panel in frames.panels(cells):
        served = [curve for curve in curves_of(cells, panel) if curve.threads]
        highest = max((float(curve.cells["total_us"].max()) for curve in served), default=0.0) / 1000
        for curve in served:
            means = used(tables.stage_means(cells, curve.threads, curve.line, panel) / 1000)
            seen += [name for name in means.columns if name not in seen]
            title = ", ".join(filter(None, [curve.label, panel]))
            charts.append(Chart(title, partial(_means, curve, means, highest), SMALL))
    order = [name for name in tables.stage_order(cells) if name in seen]
    return Charts(charts, stages_legend(order), frames.machine_note(rows, folder))


def stages_legend(stages: Sequence[str]) -> Legend:
    """Return what explains the colours of stages."""
    colours = stage_colours(stages)
    return Legend([], [(name, colours[name]) for name in stages])


def _means(curve: PlottedCurve, means: pd.DataFrame, highest: float, sheet: Sheet) -> None:
    for bar, name, clients, value, share in stack(sheet.axes, means):
        said = f"{value * 1000:,.0f} µs, {share:.0%} of a request"
        sheet.add_tooltips(bar, [f"{name}, {plural(clients, 'client')}\n{said}"], data_attributes(curve))
    sheet.axes.set_ylabel("mean time of a request [ms]")
    sheet.axes.set_ylim(0, highest * 1.05)


def stack(axes: Axes, times: pd.DataFrame) -> list[tuple[Artist, str, int, float, float]]:
    """Draw stages as stacked bars, a bar a client count.

    Returns each part's artist, stage, client count, time, and share of its bar.
    """
    colours, drawn = stage_colours(times.columns), []
    places, bottom, wholes = np.arange(len(times)), np.zeros(len(times)), times.sum(axis=1)
    for name in times.columns:
        values = times[name].to_numpy()
        parts = axes.bar(places, values, 0.7, bottom, color=colours[name], edgecolor=axes.get_facecolor(), lw=0.4)
        drawn += [
            (part, str(name), int(clients), float(value), float(value / whole))
            for part, clients, value, whole in zip(parts, times.index, values, wholes, strict=True)
        ]
        bottom += values
    axes.set_xticks(places, [str(count) for count in times.index])
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("client threads")
    return drawn


PARTS = {
    costs.SERVER_PROCESS: "the server",
    costs.WORKER_PROCESSES: "worker processes",
    costs.FRONT_PROCESS: "the process in front of them",
    costs.CLIENT_PROCESSES: "clients",
}


def cost(rows: pd.DataFrame, _folder: Path, cells: pd.DataFrame | None = None) -> Charts:
    """Return the CPU time of a request by who took it, of the best cell of each curve."""
    cells = frames.cells(rows) if cells is None else cells
    served = cells[~cells["mode"].isin(LOCAL_MODES)]
    if served.empty:
        return Charts([], note=NO_SERVER)
    served = served[served["server_cpu_us"].notna()]
    if served.empty:
        return Charts([], note=NOT_KNOWN)
    best = served.sort_values("throughput").groupby(["panel", "line"], sort=False).tail(1)
    best = best.sort_values("server_cpu_us", ascending=False)
    names = [_name(cell) for _, cell in best.iterrows()]
    chart = Chart("CPU time of a request, by who took it", partial(_cost, best, names), (6.6, 0.9 + 0.42 * len(best)))
    used = {part for _, cell in best.iterrows() for part in costs.cpu_shares(cell)}
    swatches = [(words, COLOURS[number]) for number, (part, words) in enumerate(PARTS.items()) if part in used]
    return Charts([chart], Legend([], swatches), "Of each mode and engine the cell of the highest throughput.")


def _cost(best: pd.DataFrame, names: list[str], sheet: Sheet) -> None:
    axes = sheet.axes
    for place, (_, cell) in enumerate(best.iterrows()):
        _parts(sheet, cell, costs.cpu_shares(cell), place, names[place])
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel("CPU time of a request [µs]")


def _name(cell: Any) -> str:
    counts = f"{cell['server_threads']} x {cell['client_threads']}"
    return ", ".join(filter(None, [cell["line"], cell["panel"].removeprefix("engine "), counts]))


def _parts(sheet: Sheet, cell: Any, shares: dict[str, float], place: int, name: str) -> None:
    whole = cell["server_cpu_us"] + cell["client_cpu_us"]
    left = 0.0
    for number, (part, words) in enumerate(PARTS.items()):
        value = shares.get(part, 0.0) * whole
        if value:
            (bar,) = sheet.axes.barh([place], [value], 0.66, left=[left], color=COLOURS[number])
            sheet.add_tooltips(
                bar,
                [f"{name}\n{words}: {value:,.0f} µs, {shares[part]:.0%}"],
                {"mode": cell["mode"], "engine": cell["engine"]},
            )
        left += value
    sheet.axes.annotate(
        f"{whole:,.0f} µs", (left, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
    )
