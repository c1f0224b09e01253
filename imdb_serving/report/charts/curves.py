"""The curves of a sweep: a curve for each line and server-thread count of a panel, bounds, and the published curves.

Colour: server threads; line: mode and what else clients do; a panel: engine and what else servers do, where that
varies. Where each line has one count of threads, colours tell the lines apart. Hollow: a cell that is not valid.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from imdb_serving.analysis.published import SAMPLES
from imdb_serving.analysis.usl import Curve
from imdb_serving.cell import plural
from imdb_serving.report import frames, tables
from imdb_serving.report.style import COLOURS, style_of, threads_label

LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)), (0, (3, 1)))
PUBLISHED_GREY = "#b8b8b8"
BOUND_GREY = "#6e6e6e"
LAW: dict[str, Any] = {"color": "#9a9a9a", "ls": "-", "lw": 4.0, "alpha": 0.55, "solid_capstyle": "round"}
"""A broad pale line, so that the measured curve on it can be seen."""


class PlottedCurve(NamedTuple):
    """One curve of a panel: its line and threads, its cells by client count, and its style."""

    line: str
    threads: int
    clients: list[int]
    cells: pd.DataFrame
    dashes: Any
    colour: str
    marker: str

    @property
    def math(self) -> int:
        """The math threads of each worker."""
        return int(self.cells["math_threads"].iloc[0])

    @property
    def label(self) -> str:
        """The curve in words; its math threads where there are several."""
        math = f" x {plural(self.math, 'math thread')}" if self.math > 1 else ""
        return f"{self.line}, {threads_label(self.threads)}{math}"


def curves_of(cells: pd.DataFrame, panel: str) -> list[PlottedCurve]:
    """Return the curves of a panel: each line and server-thread count."""
    found = []
    for (line, count), style in styles(cells).items():
        clients, own = tables.curve(cells, count, line, panel)
        if clients:
            found.append(PlottedCurve(line, count, list(clients), own, *style))
    return found


class Style(NamedTuple):
    """The dashes, the colour and the marker of a curve."""

    dashes: Any
    colour: str
    marker: str


def styles(cells: pd.DataFrame) -> dict[tuple[str, int], Style]:
    """Return the style of each line and count of server threads."""
    lines, counts = frames.lines(cells), [int(count) for count in sorted(cells["threads"].unique())]
    if has_one_count(cells):
        every = enumerate((line, count) for line in lines for count in counts_of(cells, line))
        return {key: Style(LINES[number // len(COLOURS) % len(LINES)], *style_of(number)) for number, key in every}
    return {
        (line, count): Style(dashes, *style_of(number))
        for line, dashes in line_styles(cells).items()
        for number, count in enumerate(counts)
    }


def counts_of(cells: pd.DataFrame, line: str) -> list[int]:
    """Return the counts of server threads that a line was measured with."""
    return [int(count) for count in sorted(cells.loc[cells["line"] == line, "threads"].unique())]


def has_one_count(cells: pd.DataFrame) -> bool:
    """Tell whether each of several lines was measured with one count of server threads."""
    lines = frames.lines(cells)
    return len(lines) > 1 and all(len(counts_of(cells, line)) == 1 for line in lines)


def draw_curve(axes: Axes, curve: PlottedCurve, column: str) -> list[Artist]:
    """Draw a curve and its interval where the column has one; return its line, and what else was drawn for it."""
    own, clients = curve.cells, curve.clients
    (line,) = axes.plot(
        clients, own[column], ls=curve.dashes, marker=curve.marker, color=curve.colour, label=curve.label, lw=1.8, ms=6
    )
    drawn: list[Artist] = [line, hollow(axes, own, column, curve.marker, curve.colour)]
    if f"{column}_low" in own:
        low, high = own[f"{column}_low"], own[f"{column}_high"]
        drawn.append(axes.fill_between(clients, low, high, color=curve.colour, alpha=0.14, lw=0))
    return drawn


def hollow(axes: Axes, cells: pd.DataFrame, column: str, marker: str, colour: str) -> Line2D:
    """Mark the cells that are not valid: empty inside, over the curve's own markers."""
    bad = cells[~cells["valid"].astype(bool)]
    inside = axes.get_facecolor()
    (drawn,) = axes.plot(
        bad["client_threads"], bad[column], marker, mfc=inside, mec=colour, mew=1.4, ms=6, ls="", zorder=4
    )
    return drawn


def draw_bounds(axes: Axes, cells: pd.DataFrame, panel: str, found: dict[tuple[str, str, int], Curve]) -> None:
    """Draw the knee of each curve of a panel, and the bounds and the law of its best curve."""
    of_curve = styles(cells)
    for (line, place, threads), curve in found.items():
        if place == panel:
            _, drawn = tables.curve(cells, threads, line, panel)
            at_knee = drawn[drawn["client_threads"] == curve.knee]
            colour = of_curve[line, threads].colour
            axes.plot(curve.knee, at_knee["throughput"], "|", color=colour, ms=17, mew=1.6, zorder=3)
    best = best_curve(cells, panel, found)
    if best is not None:
        cell, curve = best
        clients = sorted(set(cells["client_threads"]))
        _bound(axes, curve, clients, float(cell["batch"]), cell)
        if has_law(curve):
            steps = np.geomspace(clients[0], min(clients[-1], curve.law.most), 60)
            axes.plot(steps, [curve.law.at(count) for count in steps], **LAW, zorder=1)


def best_curve(cells: pd.DataFrame, panel: str, found: dict[tuple[str, str, int], Curve]) -> tuple[Any, Curve] | None:
    """Return the cell of a panel's highest throughput and its curve; None without a server or without a curve."""
    served = cells[(cells["panel"] == panel) & cells["threads"].gt(0)]
    if served.empty:
        return None
    best = served.sort_values("throughput").iloc[-1]
    curve = found.get((str(best["line"]), panel, int(best["threads"])))
    return None if curve is None else (best, curve)


def has_law(curve: Curve) -> TypeGuard[Any]:
    """Tell whether a law was fitted to a curve, and fits."""
    return not isinstance(curve.law, str) and curve.law.fits


def bounds_legend(*, fitted: bool) -> list[Line2D]:
    """Return what explains the bounds, the knees, and the law where one was fitted."""
    grey: dict[str, Any] = {"color": BOUND_GREY, "ls": (0, (1, 1)), "lw": 1.3}
    knee: dict[str, Any] = {"color": "#444444", "marker": "|", "ls": "", "ms": 12, "mew": 1.6}
    law = [Line2D([], [], **LAW, label="the law of scalability (USL)\nfitted to the highest curve")]
    return [
        Line2D([], [], **grey, label="the most that the highest\ncurve can give: clients,\nworkers, cores"),
        *(law if fitted else []),
        Line2D([], [], **knee, label="knee: more clients\nonly wait longer"),
    ]


def _bound(axes: Axes, curve: Curve, clients: list[int], batch: float, best: Any) -> None:
    """Draw the least of a curve's bounds, no higher than the measured curve needs."""
    counts = np.geomspace(clients[0], clients[-1], 60)
    bound = np.array([curve.bounds.at(count) for count in counts]) * batch
    shown = bound <= max(1.6 * best["throughput"], bound.min())
    axes.plot(counts[shown], bound[shown], color=BOUND_GREY, ls=(0, (1, 1)), lw=1.3, zorder=1)


def line_styles(cells: pd.DataFrame) -> dict[str, Any]:
    """Return the dashes of each line."""
    return dict(zip(frames.lines(cells), LINES * 3, strict=False))


PUBLISHED: dict[str, Any] = {"color": PUBLISHED_GREY, "lw": 1.1, "marker": ".", "ms": 4, "zorder": 1}


def draw_published(axes: Axes, rpc: pd.DataFrame, flask: pd.DataFrame, samples: int) -> list[Line2D]:
    """Draw the published curves in grey, scaled to a number of samples, and return their lines."""
    scale = samples / SAMPLES
    drawn = []
    for threads, curve in rpc.groupby("server_threads"):
        name = f"published rpc, {threads} threads"
        drawn += axes.plot(curve["client_threads"], curve["total_s"] * scale, "-", label=name, **PUBLISHED)
    drawn += axes.plot(flask["client_threads"], flask["total_s"] * scale, "--", label="published flask", **PUBLISHED)
    return drawn


def published_legend(rpc: pd.DataFrame, samples: int) -> list[Line2D]:
    """Return what explains the published curves."""
    note = "" if samples == SAMPLES else f",\nscaled to {samples:,} samples"
    servers = f"{rpc['server_threads'].min()} to {rpc['server_threads'].max()}"
    return [
        Line2D([], [], ls="-", **PUBLISHED, label=f"published 2020: rpc, {servers}\nserver threads, 48 cores{note}"),
        Line2D([], [], ls="--", **PUBLISHED, label="published 2020: flask, one\nthread, curl clients"),
    ]


def curves_legend(cells: pd.DataFrame) -> list[Line2D]:
    """Return what explains the lines and the colours, and hollow points where there are some."""
    lines, colours = [], []
    if has_one_count(cells):
        several = len(set(cells["threads"])) > 1
        for (line, count), (dashes, colour, marker) in styles(cells).items():
            name = f"{line}, {threads_label(count)}" if several else line
            lines.append(Line2D([], [], color=colour, marker=marker, ls=dashes, lw=1.8, label=name))
    else:
        for number, count in enumerate(sorted(cells["threads"].unique())):
            colour, marker = style_of(number)
            colours.append(Line2D([], [], color=colour, marker=marker, lw=1.8, label=threads_label(int(count))))
        for line, dashes in line_styles(cells).items():
            lines.append(Line2D([], [], color="#444444", ls=dashes, lw=1.8, label=line))
    invalid = [
        Line2D([], [], marker="o", ls="", mfc="white", mec="#444444", mew=1.4, label="not valid: see the report")
    ]
    shown = [] if cells["valid"].all() else invalid
    return [*lines, *colours, *shown]


def data_attributes(curve: PlottedCurve) -> dict[str, str]:
    """Return a curve's `data-` attributes, by which a page can hide it."""
    first = curve.cells.iloc[0]
    return {"mode": str(first["mode"]), "engine": str(first["engine"])}
