"""The overhead ladder's figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, SymmetricalLogLocator

from imdb_serving.analysis.intervals import Estimate
from imdb_serving.cell import plural
from imdb_serving.experiment.ladder import RUNGS
from imdb_serving.report import frames, ladder
from imdb_serving.report.style import COLOURS, GREY, own_style, style_of


def ladder_figure(rows: pd.DataFrame, folder: Path) -> Figure:
    """Draw what each rung adds to a request, with 95 % intervals, a panel an engine; hollow where it may be nothing."""
    cases = ladder.cases(rows)
    engines = list(dict.fromkeys(engine for engine, _ in cases))
    with own_style():
        columns = min(len(engines), 2)
        lines = -(-len(engines) // columns)
        size = (5.8 * columns, 0.8 + 5.4 * lines)
        figure, panels = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
        for panel in panels.flat[len(engines) :]:
            panel.set_axis_off()
        for panel, engine in zip(panels.flat, engines, strict=False):
            own = [case for case in cases if case[0] == engine]
            for number, case in enumerate(own):
                draw_case(panel, rows, case, number, len(own))
            added_axis(panel, [ladder.additions(rows, case) for case in own])
            panel.set_title(f"engine {engine}", loc="left")
        first = panels[0][0]
        first.set_yticks(range(len(RUNGS)), list(RUNGS))
        first.invert_yaxis()
        handles, labels = first.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
        workers = plural(int(rows["server_threads"].max()), "worker")
        rounds, note = plural(rows["round"].nunique(), "round"), frames.machine_note(rows, folder)
        figure.suptitle(
            f"What each rung adds to a request · {workers}, {rounds}, medians, 95 % intervals; hollow: 0 lies inside"
            f"\n{note}",
            fontsize=11,
        )
    return figure


def draw_case(axes: Axes, rows: pd.DataFrame, case: ladder.Case, number: int, of: int) -> list[tuple[Line2D, str]]:
    """Draw the rungs of one client count, the `number`-th of `of`; return the dots and their rungs."""
    return _rungs(axes, ladder.additions(rows, case), case[1], number, (number - (of - 1) / 2) * 0.36)


def _rungs(axes: Axes, table: pd.DataFrame, clients: int, number: int, offset: float) -> list[tuple[Line2D, str]]:
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
    axes.plot([], [], f"{marker}-", color=colour, label=plural(clients, "client"))
    return drawn


FIRST = next(iter(RUNGS))
LEAST_MS = 0.05
"""Where the axis of single requests' times begins at the latest."""


def latency_figure(rows: pd.DataFrame, folder: Path) -> Figure:
    """Draw how a single request's time is spread, a row a rung, one client; a delayed acknowledgement would show."""
    engines = list(dict.fromkeys(rows["engine"]))
    bins = np.geomspace(0.002, 200, 112)
    least = LEAST_MS
    with own_style():
        figure, panels = plt.subplots(
            len(RUNGS) - 1, 1, figsize=(8.4, 6.6), sharex=True, layout="constrained", gridspec_kw={"hspace": 0.04}
        )
        for panel, rung in zip(panels, list(RUNGS)[1:], strict=True):
            for number, engine in enumerate(engines):
                times = ladder.latencies(rows, folder, rung, engine)
                least = min(least, float(times.min()))
                panel.hist(
                    times,
                    bins,
                    weights=np.full(len(times), 100 / len(times)),
                    histtype="stepfilled",
                    alpha=0.55,
                    color=COLOURS[number],
                    label=f"engine {engine}",
                )
            panel.axvspan(*ladder.ACK_MS, color=GREY, alpha=0.3, lw=0, label="a delayed acknowledgement, 40 ms")
            panel.set_yticks([])
            panel.grid(visible=False, axis="y")
            panel.spines["left"].set_visible(False)
            panel.set_ylabel(rung, rotation=0, ha="right", va="center")
        panels[-1].set_xscale("log")
        panels[-1].set_xlim(0.9 * least, 100)
        panels[-1].set_xlabel("time of a request [ms]")
        panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), fontsize=9.5)
        figure.suptitle("Single requests' times, one client (areas: share of the requests)", fontsize=11)
    return figure


def added_axis(axes: Axes, tables: list[pd.DataFrame]) -> None:
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


LINEAR_US = 20.0
