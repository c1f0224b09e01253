"""The figures' style: colours that a colour-blind reader can tell apart (Okabe and Ito, 2008), axes, and saving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from imdb_serving.cell import plural

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
GREY = "#9a9a9a"
STAGE_COLOURS = {
    "prepro": "#999999",
    "encode": "#F0E442",
    "send": "#56B4E9",
    "network": "#7FCDBB",
    "queue": "#D55E00",
    "parse": "#8C6D31",
    "handover": "#A6D854",
    "op0": "#CC79A7",
    "op1": "#0072B2",
    "op2": "#882255",
    "reply": "#009E73",
    "decode": "#E69F00",
    "postpro": "#444444",
}
OWN_COLOURS = ("#F781BF", "#5E3C99", "#B2DF8A", "#1B9E77", "#FB9A99", "#7570B3")
"""For ops of one's own, in the order in which requests pass them."""

STYLE: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "font.size": 10.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


def own_style(style: Any = STYLE) -> AbstractContextManager[None]:
    """Use matplotlib's defaults and `style` for the block, and nothing of the user's matplotlibrc."""
    return plt.style.context(["default", style])


def style_of(number: int) -> tuple[str, str]:
    """Return the colour and the marker of the n-th server-thread count, the same in plots and legends."""
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def threads_label(threads: int) -> str:
    """Return a server-thread count in words; 0 is no server."""
    return plural(threads, "server thread") if threads else "no server: a loop each"


def stage_colours(names: Iterable[str]) -> Mapping[str, str]:
    """Return a colour for every stage; those that only one's own servers have get theirs in turn."""
    names = list(names)
    own = [name for name in names if name not in STAGE_COLOURS]
    return {**STAGE_COLOURS, **{name: OWN_COLOURS[number % len(OWN_COLOURS)] for number, name in enumerate(own)}}


FORMATS = ("png", "svg", "pdf")


def save(figure: Figure, folder: Path, name: str) -> Figure:
    """Write a figure as PNG, SVG and PDF, and return it for showing."""
    folder.mkdir(parents=True, exist_ok=True)
    with own_style():
        for suffix in FORMATS:
            # White behind the axes: a transparent figure cannot be read on a dark page.
            figure.savefig(folder / f"{name}.{suffix}", facecolor="white")
    return figure


def used(stages: pd.DataFrame) -> pd.DataFrame:
    """Return the stages that took any time: RPC has no parse and no handover."""
    return stages.loc[:, (stages != 0).any()]


def log_axes(axes: Axes, clients: Sequence[int], ylabel: str) -> None:
    """Make both axes logarithmic, the ticks at the client counts."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    client_axis(axes, clients)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if str(f"{value:e}")[0] in "25" else ""))
    axes.tick_params(axis="y", which="minor", labelsize=9)
    axes.set_ylabel(ylabel)


def client_axis(axes: Axes, clients: Sequence[int]) -> None:
    """Put the ticks of the client axis at the client counts."""
    axes.xaxis.set_major_locator(FixedLocator([float(count) for count in clients]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.set_xlabel("client threads")
