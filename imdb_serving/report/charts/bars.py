"""Bar charts: the stages of a request, the CPU time by who took it, and what each rung of the ladder adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from imdb_serving.cell import LOCAL_MODES, plural
from imdb_serving.experiment.ladder import RUNGS
from imdb_serving.report import costs, frames, ladder, tables
from imdb_serving.report.charts.chart import Chart, Charts, Legend, sheet
from imdb_serving.report.charts.threads import NO_SERVER, data_of
from imdb_serving.report.curves import Drawn, curves_of
from imdb_serving.report.ladder_plots import added_axis, draw_case
from imdb_serving.report.style import COLOURS, stage_colours, style_of, used

SMALL = 3.6, 3.0


def stages(rows: pd.DataFrame, folder: Path) -> Charts:
    """Return the mean stages of a request against clients, stacked; charts of one engine have one scale."""
    cells = frames.cells(rows)
    if not tables.any_measured(rows, served=True):
        return Charts([], note=NO_SERVER)
    charts, seen = [], []
    for panel in frames.panels(cells):
        served = [curve for curve in curves_of(cells, panel) if curve.threads]
        highest = max((float(curve.cells["total_us"].max()) for curve in served), default=0.0) / 1000
        for curve in served:
            means = used(tables.stage_means(cells, curve.threads, curve.line, panel) / 1000)
            seen += [name for name in means.columns if name not in seen]
            charts.append(_stacked(curve, panel, means, highest))
    order = [name for name in tables.stage_order(cells) if name in seen]
    colours = stage_colours(order)
    return Charts(charts, Legend([], [(name, colours[name]) for name in order]), frames.machine_note(rows, folder))


def _stacked(curve: Drawn, panel: str, means: pd.DataFrame, highest: float) -> Chart:
    with sheet(SMALL) as page:
        axes, colours = page.axes, stage_colours(means.columns)
        places, bottom, wholes = np.arange(len(means)), np.zeros(len(means)), means.sum(axis=1)
        for name in means.columns:
            values = means[name].to_numpy()
            bars = axes.bar(places, values, 0.7, bottom, color=colours[name], edgecolor=axes.get_facecolor(), lw=0.4)
            for bar, clients, value, whole in zip(bars, means.index, values, wholes, strict=True):
                said = f"{value * 1000:,.0f} µs, {value / whole:.0%} of a request"
                page.tell(bar, [f"{name}, {plural(int(clients), 'client')}\n{said}"], data_of(curve))
            bottom += values
        axes.set_xticks(places, [str(count) for count in means.index])
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("client threads")
        axes.set_ylabel("mean time of a request [ms]")
        axes.set_ylim(0, highest * 1.05)
        return page.chart(", ".join(filter(None, [curve.label, panel])))


PARTS = {"op1": "the model (op1)", "other ops": "other ops", "transport": "transport", "clients": "clients"}


def cost(rows: pd.DataFrame) -> Charts:
    """Return the CPU time of a request by who took it, of the best cell of each curve."""
    cells = frames.cells(rows)
    served = cells[~cells["mode"].isin(LOCAL_MODES)]
    if served.empty:
        return Charts([], note=NO_SERVER)
    best = served.sort_values("throughput").groupby(["panel", "line"], sort=False).tail(1)
    best = best.sort_values("server_cpu_us", ascending=False)
    with sheet((6.6, 0.9 + 0.42 * len(best))) as page:
        axes, names = page.axes, []
        for place, (_, cell) in enumerate(best.iterrows()):
            names.append(_name(cell))
            _parts(page, cell, costs.cpu_shares(cells, cell), place, names[-1])
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        axes.set_xlabel("CPU time of a request [µs]")
        chart = page.chart("CPU time of a request, by who took it")
    swatches = [(words, COLOURS[number]) for number, words in enumerate(PARTS.values())]
    return Charts([chart], Legend([], swatches), "Of each mode and engine the cell of the highest throughput.")


def _name(cell: Any) -> str:
    counts = f"{cell['server_threads']} x {cell['client_threads']}"
    return ", ".join(filter(None, [cell["line"], cell["panel"].removeprefix("engine "), counts]))


def _parts(page: Any, cell: Any, shares: dict[str, float], place: int, name: str) -> None:
    whole = cell["server_cpu_us"] + cell["client_cpu_us"]
    left = 0.0
    for number, (part, words) in enumerate(PARTS.items()):
        value = shares.get(part, 0.0) * whole
        if value:
            (bar,) = page.axes.barh([place], [value], 0.66, left=[left], color=COLOURS[number])
            page.tell(
                bar,
                [f"{name}\n{words}: {value:,.0f} µs, {shares[part]:.0%}"],
                {"mode": cell["mode"], "engine": cell["engine"]},
            )
        left += value
    page.axes.annotate(
        f"{whole:,.0f} µs", (left, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
    )


SIZE = 5.0, 4.8


def rungs(rows: pd.DataFrame | None, folder: Path, why_not: str = "") -> Charts:
    """Return the charts of a ladder's rows; none, and why, where it was not measured."""
    if rows is None:
        return Charts([], note=why_not)
    cases = ladder.cases(rows)
    engines = dict.fromkeys(engine for engine, _ in cases)
    charts = [_chart(rows, engine, [case for case in cases if case[0] == engine]) for engine in engines]
    counts = list(dict.fromkeys(clients for _, clients in cases))
    handles = []
    for number, clients in enumerate(counts):
        colour, marker = style_of(number)
        handles.append(Line2D([], [], color=colour, marker=marker, lw=1.6, label=plural(clients, "client")))
    note = (
        f"{plural(int(rows['server_threads'].max()), 'worker')}, {plural(rows['round'].nunique(), 'round')}; medians "
        f"with 95 % intervals, hollow where 0 lies inside; {frames.machine_note(rows, folder)}"
    )
    return Charts(charts, Legend(handles), note)


def _chart(rows: pd.DataFrame, engine: str, cases: list[ladder.Case]) -> Chart:
    with sheet(SIZE) as page:
        for number, case in enumerate(cases):
            table = ladder.additions(rows, case)
            for dot, rung in draw_case(page.axes, rows, case, number, len(cases)):
                row = table.loc[rung]
                interval = f"{row['adds']:+,.0f} µs ({row['adds low']:,.0f} to {row['adds high']:,.0f})"
                words = f"{rung}: {ladder.MEANING[rung]}\n{plural(case[1], 'client')}: {interval}"
                page.tell(dot, [words], {"engine": engine})
        page.axes.set_yticks(range(len(RUNGS)), list(RUNGS))
        page.axes.invert_yaxis()
        added_axis(page.axes, [ladder.additions(rows, case) for case in cases])
        return page.chart(f"Added to a request, engine {engine}")
