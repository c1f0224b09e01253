"""The figures of a sweep: time and throughput against threads, and the stages.

Colour: server threads; line: mode and what else clients do; a panel: engine and what else servers do, where that
varies. Hollow: a cell that is not valid.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from imdb_serving.analysis.cells import measured
from imdb_serving.analysis.published import SAMPLES
from imdb_serving.analysis.usl import Curve
from imdb_serving.report import costs, frames, tables
from imdb_serving.report.style import (
    client_axis,
    hollow,
    log_axes,
    own_style,
    save,
    stack,
    style_of,
    threads_label,
    used,
)

LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)), (0, (3, 1)))
PANELS_A_ROW = 3
PANEL_LETTERS, LETTERS_AN_INCH = 40, 9
"""How long a panel's title may be, and all of the figure's above the axes, an inch, without the legend's part."""

PUBLISHED_GREY = "#b8b8b8"
BOUND_GREY = "#6e6e6e"
LAW: dict[str, Any] = {"color": "#9a9a9a", "ls": "-", "lw": 4.0, "alpha": 0.55, "solid_capstyle": "round"}
"""A broad pale line, so that the measured curve on it can be seen."""


def save_all(rows: pd.DataFrame, folder: Path, figures: Path) -> None:
    """Write the figures for papers of the closed loops that were measured; none where there are none."""
    if tables.any_measured(rows):
        time = time_figure(rows, folder, tables.published_rpc(), tables.published_flask())
        save(time, figures, "time-vs-threads")
        save(throughput_figure(rows, folder), figures, "throughput-vs-threads")
    if tables.any_measured(rows, served=True):
        save(stage_figure(rows, folder), figures, "stages")


def time_figure(rows: pd.DataFrame, folder: Path, rpc: pd.DataFrame, flask: pd.DataFrame) -> Figure:
    """Draw the total time against client threads, a curve a line and server-thread count, the published in grey."""
    cells = frames.cells(rows)
    with own_style():
        figure, panels = _panels(rows, folder, "Time against threads", height=5.4, sharey=True)
        published: list[Line2D] = []
        for axes in panels:
            published = draw_published(axes, rpc, flask, int(cells["samples"].iloc[0]))
        _curves(panels, cells, "total_s")
        clients = sorted({*cells["client_threads"], *rpc["client_threads"], *flask["client_threads"]})
        for axes in panels:
            log_axes(axes, clients, "total time per client [s]" if axes in panels[::PANELS_A_ROW] else "")
        _legend(figure, cells, published)
    return figure


def throughput_figure(rows: pd.DataFrame, folder: Path) -> Figure:
    """Draw samples a second against client threads, a curve a line and server-thread count, with 95 % intervals."""
    cells = frames.cells(rows)
    with own_style():
        figure, panels = _panels(rows, folder, "Throughput against threads", height=4.4, sharey=False)
        _curves(panels, cells, "throughput")
        known = _bounds(panels, rows, cells, folder)
        for axes in panels:
            axes.set_xscale("log", base=2)
            client_axis(axes, sorted(set(cells["client_threads"])))
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        for axes in panels[::PANELS_A_ROW]:
            axes.set_ylabel("throughput [samples/s]")
        _legend(figure, cells, known)
    return figure


def stage_figure(rows: pd.DataFrame, folder: Path) -> Figure:
    """Draw the stages of one request, stacked: a plot a mode and thread count, a panel's on one scale."""
    cells = frames.cells(rows)
    laid_out = _stage_rows(cells)
    with own_style():
        figure, plots = plt.subplots(
            len(laid_out),
            max(map(len, laid_out)),
            figsize=(max(8.4, 2.7 * max(map(len, laid_out)) + 1.4), 0.8 + 3.6 * len(laid_out)),
            squeeze=False,
            layout="constrained",
        )
        for axes in plots.flat:
            axes.set_axis_off()
        entries: dict[str, Any] = {}
        for row, wanted in zip(plots, laid_out, strict=True):
            scaled = ""
            for axes, one in zip(row, wanted, strict=False):
                own = cells[cells["panel"] == one.panel]
                axes.set_axis_on()
                stack(axes, used(one.means), "mean time of a request [ms]" if axes is row[0] else "", legend=False)
                axes.set_ylim(0, own.loc[own["threads"] > 0, "total_us"].max() / 1000 * 1.05)
                axes.tick_params(labelleft=axes is row[0] or one.panel != scaled)
                scaled = one.panel
                title = ", ".join(filter(None, [one.line, one.panel, threads_label(one.threads)]))
                axes.set_title(_wrapped(title, STAGES_LETTERS), loc="left", fontsize=10)
                handles, labels = axes.get_legend_handles_labels()
                entries |= dict(zip(labels, handles, strict=True))
        order = [name for name in reversed(tables.stage_order(cells)) if name in entries]
        figure.legend([entries[name] for name in order], order, loc="outside right center", fontsize=9.5)
        title = _title("Where a request's time goes", rows, folder, figure.get_figwidth())
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


class _Stages(NamedTuple):
    """One plot of stages: its curve, and the means in milliseconds by client threads."""

    line: str
    panel: str
    threads: int
    means: pd.DataFrame


STAGES_A_ROW, STAGES_LETTERS = 5, 34


def _stage_rows(cells: pd.DataFrame) -> list[list[_Stages]]:
    """Return the plots of stages in rows: a panel's side by side, and in a row with others' where all fit."""
    rows: list[list[_Stages]] = []
    for panel in frames.panels(cells):
        counts = sorted(cells.loc[cells["panel"] == panel, "threads"].unique())
        found = [
            _Stages(line, panel, int(count), tables.stage_means(cells, int(count), line, panel) / 1000)
            for line in frames.lines(cells)
            for count in counts
        ]
        there = [one for one in found if not one.means.empty]
        if rows and len(rows[-1]) + len(there) <= STAGES_A_ROW:
            rows[-1] += there
        else:
            rows += [there[start : start + STAGES_A_ROW] for start in range(0, len(there), STAGES_A_ROW)]
    return rows


def _panels(rows: pd.DataFrame, folder: Path, what: str, *, height: float, sharey: bool) -> tuple[Figure, list[Axes]]:
    """Return a figure with its panels, and its title of two lines."""
    names = frames.panels(measured(frames.grid(rows)))
    across = min(len(names), PANELS_A_ROW)
    down = -(-len(names) // across)
    width = max(10.4, 4.2 * across + 4.2)  # one panel alone needs room for its title
    figure, panels = plt.subplots(
        down, across, figsize=(width, height * down), sharey=sharey, squeeze=False, layout="constrained"
    )
    title = _title(what, rows, folder, width)
    if len(names) == 1:
        panels[0, 0].set_title(title, loc="left", fontsize=11)
    else:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
        for axes, name in zip(panels.flat, names, strict=False):
            axes.set_title(_wrapped(name, PANEL_LETTERS), loc="left")
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    return figure, list(panels.flat[: len(names)])


def _title(what: str, rows: pd.DataFrame, folder: Path, width: float) -> str:
    """Return a figure's title: what it shows, what varies, and what all have in common. Many panels name themselves."""
    varied, alike = frames.settings(rows)
    if len(frames.panels(measured(frames.grid(rows)))) > PANELS_A_ROW:
        varied = varied.partition(";")[0]
    return _wrapped(f"{what} · {varied}\n{alike} · {frames.machine_note(rows, folder)}", int(width * LETTERS_AN_INCH))


def _wrapped(words: str, width: int) -> str:
    """Wrap text to lines of at most `width` letters."""
    return "\n".join(line for part in words.split("\n") for line in textwrap.wrap(part, width))


def _curves(panels: list[Axes], cells: pd.DataFrame, column: str) -> None:
    """Draw each line and server-thread count of each panel, with its interval where the column has one."""
    for axes, panel in zip(panels, frames.panels(cells), strict=True):
        for curve in curves_of(cells, panel):
            draw_curve(axes, curve, column)


class Drawn(NamedTuple):
    """One curve of a panel: its line and threads, its cells by client count, and its style."""

    line: str
    threads: int
    clients: list[int]
    cells: pd.DataFrame
    dashes: Any
    colour: str
    marker: str

    @property
    def label(self) -> str:
        """The curve in words."""
        return f"{self.line}, {threads_label(self.threads)}"


def curves_of(cells: pd.DataFrame, panel: str) -> list[Drawn]:
    """Return the curves of a panel: each line and server-thread count."""
    found = []
    counts = sorted(cells["threads"].unique())
    for line, dashes in line_styles(cells).items():
        for number, count in enumerate(counts):
            clients, own = tables.curve(cells, int(count), line, panel)
            if clients:
                found.append(Drawn(line, int(count), list(clients), own, dashes, *style_of(number)))
    return found


def draw_curve(axes: Axes, curve: Drawn, column: str) -> list[Artist]:
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


def _bounds(panels: list[Axes], rows: pd.DataFrame, cells: pd.DataFrame, folder: Path) -> list[Line2D]:
    """Draw the bounds of the best curve of each panel and every knee, and return their entries of the legend."""
    found = costs.curves(rows, cells, folder)
    drawn = [draw_bounds(axes, cells, panel, found) for axes, panel in zip(panels, frames.panels(cells), strict=True)]
    return bounds_legend(fitted=any(drawn))


def draw_bounds(axes: Axes, cells: pd.DataFrame, panel: str, found: dict[tuple[str, str, int], Curve]) -> bool:
    """Draw the bounds and the law of a panel's best curve, and the knee of each; return whether a law was drawn."""
    own = {key: curve for key, curve in found.items() if key[1] == panel}
    counts = sorted(cells["threads"].unique())
    for (line, _, threads), curve in own.items():
        _, drawn = tables.curve(cells, threads, line, panel)
        at_knee = drawn[drawn["client_threads"] == curve.knee]
        colour, _ = style_of(counts.index(threads))
        axes.plot(curve.knee, at_knee["throughput"], "|", color=colour, ms=17, mew=1.6, zorder=3)
    served = cells[(cells["panel"] == panel) & cells["threads"].gt(0)]
    if not own or served.empty:
        return False
    best = served.sort_values("throughput").iloc[-1]
    key = (str(best["line"]), panel, int(best["threads"]))
    if key not in own:
        return False
    clients = sorted(set(cells["client_threads"]))
    _bound(axes, own[key], clients, float(best["batch"]), best)
    return _law(axes, own[key], clients)


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
    """Draw the least of a curve's bounds, and no further up than the measured curve needs."""
    counts = np.geomspace(clients[0], clients[-1], 60)
    bound = np.array([curve.bounds.at(count) for count in counts]) * batch
    shown = bound <= max(1.6 * best["throughput"], bound.min())
    axes.plot(counts[shown], bound[shown], color=BOUND_GREY, ls=(0, (1, 1)), lw=1.3, zorder=1)


def _law(axes: Axes, curve: Curve, clients: list[int]) -> bool:
    """Draw the law fitted to a curve, where it fits; return whether it does."""
    if isinstance(curve.law, str) or not curve.law.fits:
        return False
    counts = np.geomspace(clients[0], min(clients[-1], curve.law.most), 60)
    axes.plot(counts, [curve.law.at(count) for count in counts], **LAW, zorder=1)
    return True


def line_styles(cells: pd.DataFrame) -> dict[str, Any]:
    """Return the dashes of each line."""
    return dict(zip(frames.lines(cells), LINES * 3, strict=False))


def draw_published(axes: Axes, rpc: pd.DataFrame, flask: pd.DataFrame, samples: int) -> list[Line2D]:
    """Draw the published curves in grey, and return their entries of the legend."""
    scale = samples / SAMPLES
    grey: dict[str, Any] = {"color": PUBLISHED_GREY, "lw": 1.1, "marker": ".", "ms": 4, "zorder": 1}
    for threads, curve in rpc.groupby("server_threads"):
        name = f"published rpc, {threads} threads"
        axes.plot(curve["client_threads"], curve["total_s"] * scale, "-", label=name, **grey)
    axes.plot(flask["client_threads"], flask["total_s"] * scale, "--", label="published flask", **grey)
    note = "" if samples == SAMPLES else f",\nscaled to {samples:,} samples"
    servers = f"{rpc['server_threads'].min()} to {rpc['server_threads'].max()}"
    return [
        Line2D([], [], ls="-", **grey, label=f"published 2020: rpc, {servers}\nserver threads, 48 cores{note}"),
        Line2D([], [], ls="--", **grey, label="published 2020: flask, one\nthread, curl clients"),
    ]


def _legend(figure: Figure, cells: pd.DataFrame, others: list[Line2D]) -> None:
    """Explain colours and lines apart from each other, beside the axes."""
    figure.legend(handles=[*curves_legend(cells), *others], loc="outside right upper", fontsize=9.5)


def curves_legend(cells: pd.DataFrame) -> list[Line2D]:
    """Return what explains the lines and the colours, and hollow points where there are some."""
    colours = []
    for number, count in enumerate(sorted(cells["threads"].unique())):
        colour, marker = style_of(number)
        colours.append(Line2D([], [], color=colour, marker=marker, lw=1.8, label=threads_label(int(count))))
    lines = [
        Line2D([], [], color="#444444", ls=dashes, lw=1.8, label=line) for line, dashes in line_styles(cells).items()
    ]
    invalid = [
        Line2D([], [], marker="o", ls="", mfc="white", mec="#444444", mew=1.4, label="not valid: see the report")
    ]
    shown = [] if cells["valid"].all() else invalid
    return [*lines, *colours, *shown]
