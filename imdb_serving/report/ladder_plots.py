"""The overhead ladder's figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from imdb_serving.bench.ladder import RUNGS
from imdb_serving.report import ladder
from imdb_serving.report.plots import COLOURS, GREY, MARKERS, STYLE, machine_note
from imdb_serving.report.tables import plural


def ladder_figure(rows: pd.DataFrame) -> Figure:
    """Draw a request's time rung by rung, a panel an engine; the numbers are what each rung adds."""
    cases = ladder.cases(rows)
    engines = list(dict.fromkeys(engine for engine, _ in cases))
    with mpl.rc_context(STYLE):
        columns = min(len(engines), 2)
        lines = -(-len(engines) // columns)
        size = (5.8 * columns, 0.8 + 5.4 * lines)
        figure, panels = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
        for panel in panels.flat[len(engines) :]:
            panel.set_axis_off()
        for panel, engine in zip(panels.flat, engines, strict=False):
            own = [case for case in cases if case[0] == engine]
            for number, case in enumerate(own):
                _rungs(panel, ladder.additions(rows, case), case[1], number, (number - (len(own) - 1) / 2) * 0.36)
            _time_axis(panel)
            panel.set_title(f"engine {engine}", loc="left")
        first = panels[0][0]
        first.set_yticks(range(len(RUNGS)), list(RUNGS))
        first.invert_yaxis()
        handles, labels = first.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
        workers = plural(int(rows["server_threads"].iloc[0]), "worker")
        rounds = plural(rows["round"].nunique(), "round")
        figure.suptitle(
            f"What each rung adds to a request · {workers}, {rounds}, medians, 95 % intervals\n{machine_note()}",
            fontsize=11,
        )
    return figure


def _rungs(axes: Axes, table: pd.DataFrame, clients: int, number: int, offset: float) -> None:
    places = np.arange(len(table)) + offset
    low, high = table["total"] - table["total low"], table["total high"] - table["total"]
    axes.errorbar(
        table["total"],
        places,
        xerr=[low.clip(upper=table["total"] * 0.9), high],
        fmt=MARKERS[number],
        color=COLOURS[number],
        ms=6,
        lw=1.4,
        capsize=2,
        label=plural(clients, "client"),
    )
    for place, (_, row) in zip(places, table.iterrows(), strict=True):
        text = f"{row['adds']:+,.0f} µs" if place > 0.5 else f"{row['adds']:,.0f} µs"
        axes.annotate(
            text,
            (max(row["total high"], row["total"]), place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=COLOURS[number],
        )


def latency_figure(rows: pd.DataFrame, folder: Path) -> Figure:
    """Draw how a single request's time is spread, a row a rung, one client; a delayed acknowledgement would show."""
    engines = list(dict.fromkeys(rows["engine"]))
    bins = np.geomspace(0.02, 200, 90)
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(RUNGS) - 1, 1, figsize=(8.4, 6.6), sharex=True, layout="constrained", gridspec_kw={"hspace": 0.04}
        )
        for panel, rung in zip(panels, RUNGS[1:], strict=True):
            for number, engine in enumerate(engines):
                times = ladder.latencies(rows, folder, rung, engine)
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
        panels[-1].set_xlim(0.02, 100)
        panels[-1].set_xlabel("time of a request [ms]")
        panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), fontsize=9.5)
        figure.suptitle("Single requests' times, one client (areas: share of the requests)", fontsize=11)
    return figure


def _time_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 4)  # room for the numbers
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("time of a request [µs]")
    axes.grid(visible=False, axis="y")
