"""Where each setting landed, as a figure. Knows dots and draws them.

Closed loops stand on time against threads, the published curves behind them and the bound of this machine below; open
loops on latency against rate. It is drawn anew with each dot, in whatever thread that is: `pyplot` and its global style
are not for this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from imdb_serving.analysis import bounds
from imdb_serving.analysis.cells import frame
from imdb_serving.analysis.published import HARDWARE, SAMPLES, published_table
from imdb_serving.cell import CLOSED, Cell, plural
from imdb_serving.lab.live import Dot
from imdb_serving.measurement.machine import usable_cores
from imdb_serving.report.chart import FAINT, INK, PAPER, Tooltip, svg_of
from imdb_serving.report.style import COLOURS, MARKERS

SIZE = 6.2, 2.45
PUBLISHED = "#a5abb0"
CLIENTS = (1, 2, 4, 8, 16, 24)
SMALL = 8.0
PAGE = {
    INK: f"var(--jp-ui-font-color1, {INK})",
    FAINT: f"var(--jp-border-color2, {FAINT})",
    PAPER: f"var(--jp-layout-color0, {PAPER})",
}

HALO = [patheffects.withStroke(linewidth=2.5, foreground=PAPER)]
"""Around words, so that a line behind them does not strike them out."""

APART = 9.5
"""Points between the names of two curves."""

Titles = dict[str, Tooltip]


class Name(NamedTuple):
    """A curve's name, where it ends, and its colour."""

    words: str
    place: tuple[float, float]
    colour: str


def trace_svg(dots: Sequence[Dot], now: Cell) -> str:
    """Return the figure for the present kind of load as SVG, with tooltips."""
    figure = Figure(figsize=SIZE, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    own = [dot for dot in dots if (dot.cell.arrivals == CLOSED) == (now.arrivals == CLOSED) and dot.row.answered]
    draw = _time if now.arrivals == CLOSED else _latency
    titles: Titles = {}
    names: list[Name] = []
    curves = list(dict.fromkeys(curve_of(dot.cell) for dot in own))
    for number, curve in enumerate(curves):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        drawn, named = draw(axes, [dot for dot in own if curve_of(dot.cell) == curve], colour, marker)
        titles |= drawn
        names += named
    if now.arrivals == CLOSED:
        _published(axes, "flask" if now.mode.startswith("flask") else "rpc")
        _bound(axes, [dot for dot in own if curve_of(dot.cell) == curve_of(now)])
        _dress(axes, "clients", f"seconds for {SAMPLES:,} reviews")
        _client_axes(axes)
    else:
        _dress(axes, "requests offered a second", "latency from when due [ms]")
        axes.margins(x=0.3)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    _name(figure, axes, names)
    return svg_of(figure, titles, "Where each setting landed", PAGE)


def curve_of(cell: Cell) -> Cell:
    """Return what the dots of one curve have in common: everything but the load."""
    return cell.without("client_threads", "rate") if cell.arrivals != CLOSED else cell.without("client_threads")


def label_of(cell: Cell) -> str:
    """Return a curve's name."""
    batch = f", batch {cell.batch}" if cell.batch > 1 else ""
    return f"{cell.mode} {cell.server or cell.engine}, {plural(cell.server_threads, 'thread')}{batch}"


def words(dot: Dot) -> str:
    """Return a dot's tooltip."""
    low, high = dot.throughput.low, dot.throughput.high
    between = f" ({low:,.0f} to {high:,.0f})" if math.isfinite(low) else ""
    told = [
        dot.cell.label(["mode", "server", "engine", "server_threads", "client_threads", "batch", "arrivals", "rate"]),
        f"{dot.throughput.mean:,.0f} reviews/s{between}",
        *(f"{name} {value:.3g} ms" for name, value in percentiles(dot).items()),
        *([f"not to be believed: {dot.why}"] if dot.why else []),
    ]
    return "\n".join(told)


def percentiles(dot: Dot) -> dict[str, float]:
    """Return the percentiles that are certified, in milliseconds."""
    figures = dot.row.figures
    found = {"p50": figures.p50_us, "p95": figures.p95_us, "p99": figures.p99_us}
    return {name: value / 1000 for name, value in found.items() if value is not None}


def _time(axes: Axes, dots: Sequence[Dot], colour: str, marker: str) -> tuple[Titles, list[Name]]:
    """Draw a curve of closed loops: a client's time for its share of the published samples."""
    ordered = sorted(dots, key=lambda dot: dot.cell.client_threads)
    times = [SAMPLES / dot.throughput.mean for dot in ordered]
    clients = [dot.cell.client_threads for dot in ordered]
    axes.plot(clients, times, "-", color=colour, lw=1.6, zorder=3)
    titles: Titles = {}
    for dot, count, time in zip(ordered, clients, times, strict=True):
        ends = [SAMPLES / end if math.isfinite(end) else time for end in (dot.throughput.high, dot.throughput.low)]
        axes.errorbar([count], [time], [[time - ends[0]], [ends[1] - time]], color=colour, lw=1.0, capsize=2, zorder=3)
        titles |= _dot(axes, dot, (count, time), colour, marker, "dot")
    return titles, [Name(label_of(ordered[-1].cell), (clients[-1], times[-1]), colour)]


def _latency(axes: Axes, dots: Sequence[Dot], colour: str, marker: str) -> tuple[Titles, list[Name]]:
    """Draw a curve of open loops: the median and the p95 against the offered rate."""
    titles: Titles = {}
    names = []
    for name, line in (("p95", "-"), ("p50", "--")):
        there = [(dot.cell.rate, percentiles(dot)[name], dot) for dot in dots if name in percentiles(dot)]
        there.sort(key=lambda point: point[0])
        axes.plot([rate for rate, _, _ in there], [value for _, value, _ in there], line, color=colour)
        for rate, value, dot in there:
            titles |= _dot(axes, dot, (rate, value), colour, marker, name)
        for rate, value, dot in there[-1:]:
            names.append(Name(f"{name} {label_of(dot.cell)}", (rate, value), colour))
    return titles, names


def _dot(axes: Axes, dot: Dot, place: tuple[float, float], colour: str, marker: str, prefix: str) -> Titles:
    face = colour if dot.valid else PAPER
    (drawn,) = axes.plot([place[0]], [place[1]], marker, ms=5.5, mec=colour, mfc=face, zorder=4)
    name = f"{prefix}-{dot.cell.key}"
    drawn.set_gid(name)
    return {name: Tooltip((words(dot),))}


def _name(figure: Figure, axes: Axes, names: Sequence[Name]) -> None:
    """Write each curve's name at its end, lifted where names would overlap."""
    figure.draw_without_rendering()  # now its places are known
    heights = [float(axes.transData.transform(name.place)[1]) * 72 / figure.dpi for name in names]
    for name, lift in zip(names, lifts(heights), strict=True):
        axes.annotate(
            name.words, name.place, xytext=(6, lift), textcoords="offset points", color=name.colour, fontsize=SMALL,
            va="center", zorder=5, path_effects=HALO,
        )  # fmt: skip


def lifts(heights: Sequence[float]) -> list[float]:
    """Return how far to lift labels at these heights so that none overlaps the one below."""
    lifted = [0.0] * len(heights)
    least = -math.inf
    for place in sorted(range(len(heights)), key=heights.__getitem__):
        lifted[place] = max(0.0, least - heights[place])
        least = heights[place] + lifted[place] + APART
    return lifted


def _published(axes: Axes, mode: str) -> None:
    """Draw the published curves in grey, one a server-thread count; their machine was another."""
    table = published_table(mode)
    by = "server_threads" if "server_threads" in table else "total_s"
    groups = table.groupby(by) if by == "server_threads" else [("", table)]
    for _, own in groups:
        axes.plot(own["client_threads"], own["total_s"], "-", color=PUBLISHED, lw=0.8, zorder=1)
    first = table.sort_values("client_threads").iloc[0]
    _remark(axes, f"published {mode}, {HARDWARE}", (first["client_threads"], first["total_s"]), "left")


def _bound(axes: Axes, dots: Sequence[Dot]) -> None:
    """Draw the least time that this curve's own demands allow on these cores."""
    if not dots:
        return
    least, batch = bounds.bounds(frame([dot.row for dot in dots]), usable_cores()), dots[0].cell.batch
    counts = [2 ** (step / 8) for step in range(int(8 * math.log2(CLIENTS[-1])) + 1)]
    times = [SAMPLES / (least.at(count) * batch) for count in counts]
    axes.plot(counts, times, ":", color=INK, lw=1.3, zorder=2)
    _remark(axes, "bound of this machine", (counts[0], min(times)), "left", below=True)
    axes.set_ylim(bottom=min(times) * 0.5)


def _remark(axes: Axes, words: str, place: tuple[float, float], side: str, below: bool = False) -> None:
    offset, align = ((0, -2), "top") if below else ((0, 2), "bottom")
    axes.annotate(
        words, place, xytext=offset, textcoords="offset points", color=INK, fontsize=SMALL - 1, ha=side, va=align,
        path_effects=HALO,
    )  # fmt: skip


def _client_axes(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator([float(count) for count in CLIENTS]))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))


def _dress(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=SMALL + 1, color=INK)
    axes.set_ylabel(y, fontsize=SMALL + 1, color=INK)
    axes.grid(visible=True, color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=INK, labelsize=SMALL)
    for name, spine in axes.spines.items():
        spine.set_visible(name in {"left", "bottom"})
        spine.set_color(INK)
    axes.set_facecolor("none")
