"""The figures of a sweep: time and throughput against threads, and the stages.

Colour: server threads; line: mode; where there are several engines, each has a panel.
"""

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
        figure, panels = _panels(rows, "Time against threads", height=5.4, sharey=True)
        published: list[Line2D] = []
        for axes in panels:
            published = _published(axes, rpc, flask, int(rows["samples"].iloc[0]))
        _curves(panels, rows, "total_s")
        clients = sorted({*rows["client_threads"], *rpc["client_threads"], *flask["client_threads"]})
        for axes in panels:
            log_axes(axes, clients, "total time per client [s]" if axes is panels[0] else "")
        _legend(figure, rows, published)
    return figure


def throughput_figure(rows: pd.DataFrame) -> Figure:
    """Draw samples a second against client threads, a curve a mode and server-thread count."""
    with mpl.rc_context(STYLE):
        figure, panels = _panels(rows, "Throughput against threads", height=4.4, sharey=False)
        _curves(panels, rows, "throughput")
        for axes in panels:
            axes.set_xscale("log", base=2)
            client_axis(axes, sorted(set(rows["client_threads"])))
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panels[0].set_ylabel("throughput [samples/s]")
        _legend(figure, rows, [])
    return figure


def stage_figure(rows: pd.DataFrame) -> Figure:
    """Draw the stages of one request, stacked, a row a mode, a column an engine and thread count, on one scale."""
    good, cells = tables.good(rows), tables.medians(rows)
    modes = list(_ways(cells))
    columns = [
        (engine, int(count))
        for engine in tables.engine_names(good)
        for count in sorted(good.loc[good["engine"] == engine, "server_threads"].unique())
    ]
    several = len(tables.engine_names(rows)) > 1  # then the modes have the engine in their names
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(modes),
            len(columns),
            figsize=(max(8.4, 3.6 * len(columns)), 0.8 + 3.9 * len(modes)),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        entries: dict[str, Any] = {}
        for row, mode in zip(panels, modes, strict=True):
            for panel, (engine, count) in zip(row, columns, strict=True):
                way = f"{mode}, {engine}" if several else mode
                means = tables.stage_means(cells, count, way) / 1000
                if means.empty:
                    panel.set_axis_off()
                    continue
                stack(panel, used(means), "mean time of a request [ms]", legend=False)
                panel.set_title(f"{way}, {tables.plural(count, 'server thread')}", loc="left")
                handles, labels = panel.get_legend_handles_labels()
                entries |= dict(zip(labels, handles, strict=True))
        for panel in panels[:, 1:].flat:
            panel.set_ylabel("")
        order = [name for name in reversed(STAGES) if name in entries]
        figure.legend([entries[name] for name in order], order, loc="outside right center", fontsize=9.5)
        figure.suptitle(f"Where a request's time goes · {tables.setting(rows)}\n{machine_note()}", fontsize=11)
    return figure


def _panels(rows: pd.DataFrame, what: str, *, height: float, sharey: bool) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel an engine, and its title of two lines."""
    names = tables.engine_names(rows)
    figure, panels = plt.subplots(
        1,
        len(names),
        figsize=(max(10.4, 4.2 * len(names) + 4.2), height),  # one panel alone needs room for its title
        sharey=sharey,
        squeeze=False,
        layout="constrained",
    )
    ways, comma, rest = tables.setting(rows).partition(", net ")
    title = f"{what} · {ways}\n{comma.removeprefix(', ')}{rest} · {machine_note()}"
    if len(names) == 1:
        panels[0, 0].set_title(title, loc="left", fontsize=11)
    else:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
        for axes, name in zip(panels[0], names, strict=True):
            axes.set_title(f"engine {name}", loc="left")
    return figure, list(panels[0])


def _ways(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the line of each mode, be it measured with one engine or several."""
    plain = dict.fromkeys(mode.partition(", ")[0] for mode in tables.modes(rows))
    return dict(zip(plain, LINES * 3, strict=False))


def _curves(panels: list[Axes], rows: pd.DataFrame, column: str) -> None:
    """Draw a median and a band from the least to the greatest round for each mode and server-thread count."""
    lines, counts = _ways(rows), sorted(rows["server_threads"].unique())
    for axes, engine in zip(panels, tables.engine_names(rows), strict=True):
        own = rows[rows["engine"] == engine]
        for mode in tables.modes(own):
            _mode_curves(axes, own, column, mode, lines[mode.partition(", ")[0]], counts)


def _mode_curves(axes: Axes, rows: pd.DataFrame, column: str, mode: str, line: Any, counts: list[int]) -> None:
    for number, count in enumerate(counts):
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
    lines = [Line2D([], [], color="#444444", ls=line, lw=1.8, label=mode) for mode, line in _ways(rows).items()]
    figure.legend(handles=[*lines, *colours, *published], loc="outside right upper", fontsize=9.5)
