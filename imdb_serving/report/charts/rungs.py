"""Charts of the overhead ladder: what each rung adds to a request, and how a request's time is spread."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, SymmetricalLogLocator
from numpy.typing import NDArray

from imdb_serving.analysis.intervals import Estimate
from imdb_serving.cell import plural
from imdb_serving.experiment.beside import WITHOUT
from imdb_serving.experiment.ladder import RUNGS
from imdb_serving.report import frames, ladder
from imdb_serving.report.chart import Chart, Charts, Legend, Sheet
from imdb_serving.report.style import COLOURS, GREY, style_of

SIZE = 5.0, 4.8
LINEAR_US = 20.0
"""Up to here the axis is linear, and logarithmic beyond."""

FIRST, *SPREAD = RUNGS


def additions(rows: pd.DataFrame | None, folder: Path, why_not: str = "") -> Charts:
    """Return what each rung adds, a chart an engine; none, and why, where the ladder was not measured."""
    if rows is None:
        return Charts([], note=why_not)
    cases = ladder.cases(rows)
    charts = [
        Chart(f"Added to a request, engine {engine}", partial(_additions, rows, engine), SIZE)
        for engine in dict.fromkeys(engine for engine, _ in cases)
    ]
    handles = []
    for number, clients in enumerate(dict.fromkeys(clients for _, clients in cases)):
        colour, marker = style_of(number)
        handles.append(Line2D([], [], color=colour, marker=marker, lw=1.6, label=plural(clients, "client")))
    note = (
        f"{plural(int(rows['server_threads'].max()), 'worker')}, {plural(rows['round'].nunique(), 'round')}; medians "
        f"with 95 % intervals, hollow where 0 lies inside; {frames.machine_note(rows, folder)}"
    )
    if ladder.others(rows):
        note += f". Below the line: servers of others in place of flask; plain Flask has {WITHOUT}."
    return Charts(charts, Legend(handles), note)


def _additions(rows: pd.DataFrame, engine: str, sheet: Sheet) -> None:
    clients = [count for name, count in ladder.cases(rows) if name == engine]
    own = [ladder.beside(rows, (engine, count)) for count in clients]
    names = [*RUNGS, *dict.fromkeys(str(name) for table in own for name in table.index)]
    tables = [
        pd.concat([ladder.additions(rows, (engine, count)), more]).reindex(names)
        for count, more in zip(clients, own, strict=True)
    ]
    for number, (count, table) in enumerate(zip(clients, tables, strict=True)):
        offset = (number - (len(clients) - 1) / 2) * 0.36
        for dot, rung in _rungs(sheet.axes, table, number, offset):
            row = table.loc[rung]
            interval = f"{row['adds']:+,.0f} µs ({row['adds low']:,.0f} to {row['adds high']:,.0f})"
            words = f"{rung}: {ladder.meaning(rung)}\n{plural(count, 'client')}: {interval}"
            sheet.add_tooltips(dot, [words], {"engine": engine})
    if len(names) > len(RUNGS):  # what does not add to the sum
        sheet.axes.axhline(len(RUNGS) - 0.5, color=GREY, lw=0.9)
    sheet.axes.set_yticks(range(len(names)), names)
    sheet.axes.invert_yaxis()
    _added_axis(sheet.axes, tables)


def _rungs(axes: Axes, table: pd.DataFrame, number: int, offset: float) -> list[tuple[Line2D, str]]:
    """Draw what each rung adds with its interval; where 0 lies inside, hollow."""
    drawn = []
    places = np.arange(len(table)) + offset
    colour, marker = style_of(number)
    for place, (rung, row) in zip(places, table.iterrows(), strict=True):
        doubt = Estimate(row["adds"], row["adds low"], row["adds high"]).holds_zero
        axes.plot([row["adds low"], row["adds high"]], [place, place], "-", color=colour, lw=1.6, solid_capstyle="butt")
        inside = axes.get_facecolor() if doubt else colour
        (dot,) = axes.plot(row["adds"], place, marker, color=colour, mfc=inside, ms=6)
        drawn.append((dot, str(rung)))
        sign = "" if rung == FIRST else "+"
        words = "not distinguishable" if doubt else f"{row['adds']:{sign},.0f} µs"
        axes.annotate(
            words,
            (max(row["adds high"], row["adds"]), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=colour,
        )
    return drawn


def _added_axis(axes: Axes, tables: list[pd.DataFrame]) -> None:
    """Make the axis linear up to some microseconds and logarithmic beyond, either way from 0."""
    axes.axvline(0, color="#666666", lw=0.9)
    axes.set_xscale("symlog", linthresh=LINEAR_US)
    high = max(float(table["adds high"].max()) for table in tables)
    low = min(0.0, *(float(table["adds low"].min()) for table in tables))
    axes.set_xlim(min(low * 1.6, -LINEAR_US / 2), high * 8)  # room for the numbers
    axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR_US))
    axes.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))  # all figures of 100,000 would touch
    axes.set_xlabel("added to a request [µs]")
    axes.grid(visible=False, axis="y")


LEAST_MS, MOST_MS = 0.05, 100.0
"""Where the axis of single requests' times begins at the latest, and ends."""


def spread(rows: pd.DataFrame, folder: Path) -> Charts:
    """Return the spread of single requests' times, a chart a rung, one client; delayed acknowledgements would show."""
    engines = list(dict.fromkeys(rows["engine"]))
    times = {rung: {name: ladder.latencies(rows, folder, rung, name) for name in engines} for rung in SPREAD}
    least = min(LEAST_MS, *(float(found.min()) for own in times.values() for found in own.values()))
    charts = [Chart(f"Time of a request, {rung}", partial(_spread, times[rung], least), (4.6, 2.2)) for rung in SPREAD]
    swatches = [(f"engine {name}", COLOURS[number]) for number, name in enumerate(engines)]
    return Charts(charts, Legend([], [*swatches, ("a delayed acknowledgement, 40 ms", GREY)]), "One client.")


def _spread(times: dict[str, NDArray[np.float64]], least: float, sheet: Sheet) -> None:
    axes, bins = sheet.axes, list(np.geomspace(0.002, 200, 112))
    for number, own in enumerate(times.values()):
        shares = np.full(len(own), 100 / len(own))
        axes.hist(own, bins, weights=shares, histtype="stepfilled", alpha=0.55, color=COLOURS[number])
    axes.axvspan(*ladder.ACK_MS, color=GREY, alpha=0.3, lw=0)
    axes.set_xscale("log")
    axes.set_xlim(0.9 * least, MOST_MS)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("time of a request [ms]")
    axes.set_ylabel("requests [%]")
