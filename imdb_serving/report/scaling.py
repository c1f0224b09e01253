"""The tables and the charts of how cost grows with workers, processes, clients, review length and batch."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from imdb_serving.cell import SCALING, plural
from imdb_serving.experiment.scaling import AXES, DIVIDED_WORKERS, MAX_PROCESSES, OURS, WORDS, WORKERS, value_on
from imdb_serving.report import frames
from imdb_serving.report.chart import Chart, Charts, Legend, Sheet
from imdb_serving.report.style import COLOURS, GREY, MARKERS


class Axis(NamedTuple):
    """How an axis is shown: what changes, under which conditions, and which figure of a point is drawn."""

    label: str
    condition: str
    column: str
    drawn: str


STEPS = (1, 2, 5)
"""Where the ticks of a logarithmic axis are, in each decade; it begins at one of them."""

SHOWN = {
    "workers": Axis("workers, and as many clients", "simulated engine", "of_ideal", "throughput of the ideal"),
    "processes": Axis(
        "processes",
        f"simulated engine, {DIVIDED_WORKERS} workers and as many clients",
        "server_cpu_us",
        "server's CPU, µs a request",
    ),
    "clients": Axis(
        "clients", f"engine none, {WORKERS} workers, {WORDS} words", "server_cpu_us", "server's CPU, µs a request"
    ),
    "words": Axis("words of a review", f"engine none, {WORKERS} workers, 1 client", "p50_us", "median, µs a request"),
    "batch": Axis(
        "reviews of a request",
        f"engine none, {WORKERS} workers, 1 client, {WORDS} words",
        "review_us",
        "median, µs a review",
    ),
}
FIGURES = {
    "request_rate": ("requests/s", 11, ",.0f"),
    "p50_us": ("p50 µs", 9, ",.0f"),
    "server_cpu_us": ("server", 9, ",.0f"),
    "client_cpu_us": ("client", 9, ",.0f"),
    "of_ideal": ("of ideal", 10, ".3f"),
    "review_us": ("µs/review", 11, ",.1f"),
}
"""The figures of a point: a heading, its width, and how the number is written; `server` and `client` are CPU, in µs."""

ONLY_ON = {"of_ideal": "workers", "review_us": "batch"}


def load(folder: Path) -> pd.DataFrame:
    """Return the rows of the newest measurement in a folder; raise `DataError` when there is none.

    `of_ideal` is the throughput as a share of what workers that lose no time would do, `review_us` the median a review.
    """
    rows = frames.of_series(folder, SCALING)
    parts = []
    for axis in AXES:
        values = rows["cell"].map(partial(value_on, axis))
        parts.append(rows[values.notna()].assign(axis=axis, value=values.dropna().astype(int)))
    table = pd.concat(parts, ignore_index=True)
    table["service_time_ms"] = table["service"].str.extract(r"([\d.]+) ms", expand=False).astype(float)
    table["of_ideal"] = table["throughput"] * table["service_time_ms"] / 1000 / table["server_threads"]
    table["review_us"] = table["p50_us"] / table["batch"]
    return table


def axes_of(rows: pd.DataFrame) -> list[str]:
    """Return the axes that were measured."""
    return [axis for axis in AXES if axis in set(rows["axis"])]


def medians(rows: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Return a row a value of an axis: the medians over the rounds, a column a figure and mode."""
    return rows[rows["axis"] == axis].pivot_table(index="value", columns="mode", values=list(FIGURES), aggfunc="median")


def text(rows: pd.DataFrame) -> str:
    """Return the tables of all axes as plain text."""
    return "\n\n".join(_table(rows, axis) for axis in axes_of(rows))


def _table(rows: pd.DataFrame, axis: str) -> str:
    table, shown = medians(rows, axis), SHOWN[axis]
    figures = [name for name in FIGURES if ONLY_ON.get(name, axis) == axis]
    width = sum(FIGURES[name][1] for name in figures)
    heads = "".join(f"{FIGURES[name][0]:>{FIGURES[name][1]}}" for name in figures)
    lines = [
        f"{shown.label}: {condition(rows, axis)} (medians of {plural(rows['round'].nunique(), 'round')}; CPU in µs)",
        f"{'':>8}" + "".join(f" |{mode:^{width}}" for mode in OURS),
        f"{axis:>8}" + f" |{heads}" * len(OURS),
    ]
    for value, row in table.iterrows():
        cells = [
            "".join(f"{row[name, mode]:>{FIGURES[name][1]}{FIGURES[name][2]}}" for name in figures) for mode in OURS
        ]
        lines.append(f"{value:>8}" + "".join(f" |{cell}" for cell in cells))
    return "\n".join(lines)


def condition(rows: pd.DataFrame, axis: str) -> str:
    """Say what all points of an axis have in common."""
    words = SHOWN[axis].condition
    timed = f"simulated engine of {rows['service_time_ms'].max():g} ms"
    return words.replace("simulated engine", timed)


def charts(rows: pd.DataFrame, note: str) -> Charts:
    """Return a chart an axis, a line a mode: medians, and the least and greatest of the rounds."""
    drawn = [Chart(f"{condition(rows, axis)}", partial(_panel, rows, axis), (5.2, 4.0)) for axis in axes_of(rows)]
    handles = [
        Line2D([], [], color=COLOURS[number], marker=MARKERS[number], lw=1.6, label=mode)
        for number, mode in enumerate(OURS)
    ]
    rounds = plural(rows["round"].nunique(), "round")
    return Charts(
        drawn,
        Legend(handles),
        f"How the cost of serving grows · {rounds}, points: medians, bars: least to greatest\n{note}",
    )


def _panel(rows: pd.DataFrame, axis: str, sheet: Sheet) -> None:
    panel, shown = sheet.axes, SHOWN[axis]
    chosen = rows[rows["axis"] == axis]
    for number, mode in enumerate(OURS):
        grouped = chosen[chosen["mode"] == mode].groupby("value")[shown.column]
        middle = grouped.median()
        spread = np.array([middle - grouped.min(), grouped.max() - middle])
        panel.errorbar(
            middle.index,
            middle,
            spread,
            label=mode,
            color=COLOURS[number],
            marker=MARKERS[number],
            ms=5,
            lw=1.6,
            capsize=2,
        )
    values = sorted(chosen["value"].unique())
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(values))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_xlabel(shown.label)
    panel.set_ylabel(shown.drawn)
    if axis == "workers":
        panel.axhline(1, color=GREY, lw=1)
        panel.set_ylim(0, 1.08)
    elif axis in ("words", "batch"):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=STEPS))
        lowest = panel.get_ylim()[0]
        decade = 10 ** math.floor(math.log10(lowest))
        panel.set_ylim(bottom=max(step * decade for step in STEPS if step * decade <= lowest))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        panel.set_ylim(bottom=0)
    if axis == "clients":
        panel.annotate(
            f"above {MAX_PROCESSES}: threads of {MAX_PROCESSES} processes",
            (0.02, 0.03),
            xycoords="axes fraction",
            fontsize=9,
        )
