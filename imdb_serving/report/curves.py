"""The figures of a sweep: time and throughput against threads, and the stages. Colour: server threads; line: mode."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from imdb_serving.bench.reference import SAMPLES
from imdb_serving.report import tables
from imdb_serving.report.plots import COLOURS, MARKERS, STYLE, client_axis, log_axes, machine_note, stack, used
from imdb_serving.timing import STAGES

LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)), (0, (3, 1)))
PUBLISHED_GREY = "#b8b8b8"


def time_figure(rows: pd.DataFrame, rpc: pd.DataFrame, flask: pd.DataFrame) -> Figure:
    """Draw the total time against client threads, a curve a mode and server-thread count, the published in grey."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(10.4, 5.6), layout="constrained")
        published = _published(axes, rpc, flask, int(rows["samples"].iloc[0]))
        _curves(axes, rows, "total_s")
        clients = sorted({*rows["client_threads"], *rpc["client_threads"], *flask["client_threads"]})
        log_axes(axes, clients, "total time per client [s]")
        _legend(figure, rows, published)
        axes.set_title(_title("Time against threads", rows), loc="left", fontsize=11)
    return figure


def throughput_figure(rows: pd.DataFrame) -> Figure:
    """Draw samples a second against client threads, a curve a mode and server-thread count."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(10.4, 4.6), layout="constrained")
        _curves(axes, rows, "throughput")
        axes.set_xscale("log", base=2)
        client_axis(axes, sorted(set(rows["client_threads"])))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_ylabel("throughput [samples/s]")
        _legend(figure, rows, [])
        axes.set_title(_title("Throughput against threads", rows), loc="left", fontsize=11)
    return figure


def stage_figure(rows: pd.DataFrame) -> Figure:
    """Draw the stages of one request, stacked, a row a mode and a panel a server-thread count, on one scale."""
    cells = tables.medians(rows)
    counts = sorted(cells["server_threads"].unique())
    modes = tables.modes(cells)
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(modes),
            len(counts),
            figsize=(max(8.4, 3.6 * len(counts)), 0.8 + 3.9 * len(modes)),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        entries: dict[str, Any] = {}
        for row, mode in zip(panels, modes, strict=True):
            for panel, count in zip(row, counts, strict=True):
                means = tables.stage_means(cells, int(count), mode) / 1000
                if means.empty:
                    panel.set_axis_off()
                    continue
                stack(panel, used(means), "mean time of a request [ms]", legend=False)
                panel.set_title(f"{mode}, {tables.plural(int(count), 'server thread')}", loc="left")
                handles, labels = panel.get_legend_handles_labels()
                entries |= dict(zip(labels, handles, strict=True))
        for panel in panels[:, 1:].flat:
            panel.set_ylabel("")
        order = [name for name in reversed(STAGES) if name in entries]
        figure.legend([entries[name] for name in order], order, loc="outside right center", fontsize=9.5)
        figure.suptitle(f"Where a request's time goes · {tables.setting(rows)}\n{machine_note()}", fontsize=11)
    return figure


def _title(what: str, rows: pd.DataFrame) -> str:
    """Return a title of two or three lines, short enough to stay beside the legend."""
    ways, comma, rest = tables.setting(rows).partition(", net ")
    return f"{what} · {ways}\n{comma.removeprefix(', ')}{rest} · {machine_note()}"


def _curves(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    """Draw a median and a band from the least to the greatest round for each mode and server-thread count."""
    for line, mode in zip(LINES * 3, tables.modes(rows), strict=False):
        for number, count in enumerate(sorted(rows["server_threads"].unique())):
            clients, spread = tables.by_client(rows, int(count), column, mode)
            if not clients:
                continue
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            label = f"{mode}, {tables.plural(int(count), 'server thread')}"
            axes.plot(clients, spread["median"], ls=line, marker=marker, color=colour, label=label, lw=1.8, ms=6)
            axes.fill_between(clients, spread["min"], spread["max"], color=colour, alpha=0.14, lw=0)


def _published(axes: Axes, rpc: pd.DataFrame, flask: pd.DataFrame, samples: int) -> list[Line2D]:
    """Draw the published curves in grey, and return their entries of the legend."""
    scale = samples / SAMPLES
    grey: dict[str, Any] = {"color": PUBLISHED_GREY, "lw": 1.1, "marker": ".", "ms": 4, "zorder": 1}
    for _, curve in rpc.groupby("server_threads"):
        axes.plot(curve["client_threads"], curve["total_s"] * scale, "-", **grey)
    axes.plot(flask["client_threads"], flask["total_s"] * scale, "--", **grey)
    note = "" if samples == SAMPLES else f",\nscaled to {samples:,} samples"
    servers = f"{rpc['server_threads'].min()} to {rpc['server_threads'].max()}"
    return [
        Line2D([], [], ls="-", **grey, label=f"published 2020: rpc, {servers}\nserver threads, 48 cores{note}"),
        Line2D([], [], ls="--", **grey, label="published 2020: flask, one\nthread, curl clients"),
    ]


def _legend(figure: Figure, rows: pd.DataFrame, published: list[Line2D]) -> None:
    """Explain colours and lines apart from each other, beside the axes."""
    colours = [
        Line2D(
            [],
            [],
            color=COLOURS[number % 7],
            marker=MARKERS[number % 6],
            lw=1.8,
            label=tables.plural(int(count), "server thread"),
        )
        for number, count in enumerate(sorted(rows["server_threads"].unique()))
    ]
    lines = [
        Line2D([], [], color="#444444", ls=line, lw=1.8, label=mode)
        for line, mode in zip(LINES * 3, tables.modes(rows), strict=False)
    ]
    figure.legend(handles=[*lines, *colours, *published], loc="outside right upper", fontsize=9.5)
