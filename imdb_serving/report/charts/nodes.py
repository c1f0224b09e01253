"""Charts of throughput against server nodes: the best measured for each number of nodes, and the law."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from imdb_serving.analysis import usl
from imdb_serving.analysis.cells import valid
from imdb_serving.cell import plural, varying
from imdb_serving.report import frames
from imdb_serving.report.chart import Chart, Charts, Legend, Sheet
from imdb_serving.report.costs import between
from imdb_serving.report.style import GREY, style_of

NODES = "server_nodes"


class Line(NamedTuple):
    """One way of serving: its name, its best cell for each number of nodes, and the law over nodes, or why none."""

    name: str
    panel: str
    cells: pd.DataFrame
    law: usl.Law | str


def any_measured(rows: pd.DataFrame) -> bool:
    """Tell whether more than one number of server nodes was measured."""
    return len(set(frames.grid(rows)[NODES])) > 1


def lines(rows: pd.DataFrame) -> list[Line]:
    """Return every way of serving that was measured on different numbers of nodes.

    For each number of nodes the best client count is kept; the law is fitted to its rounds.
    """
    cells = frames.cells(rows)
    cells = cells[cells["valid"].astype(bool)]
    kinds = [cell.without("series", NODES, "client_threads") for cell in cells["cell"]]
    told = {"mode", *varying(kinds)} & set(frames.LINE)
    found = []
    for kind in dict.fromkeys(kinds):
        own = cells[[other == kind for other in kinds]].sort_values("throughput", ascending=False)
        best: Any = own.drop_duplicates(NODES).sort_values(NODES)
        if len(best) > 1:
            name = f"{kind.label(told)}, {plural(kind.server_threads, 'thread')}"
            found.append(Line(name, str(best["panel"].iloc[0]), best, _law(rows, best)))
    return found


def _law(rows: pd.DataFrame, best: pd.DataFrame) -> usl.Law | str:
    sound: Any = valid(rows[rows["key"].isin(best["key"])])
    return usl.fit({int(count): list(own["throughput"]) for count, own in sound.groupby(NODES)}, unit="node")


def nodes(rows: pd.DataFrame, folder: Path) -> Charts:
    """Return samples a second against server nodes, with 95 % intervals, the law, and perfect scaling."""
    every = lines(rows)
    charts = [
        Chart(f"Throughput against nodes{', ' if panel else ''}{panel}", partial(_nodes, every, panel))
        for panel in dict.fromkeys(line.panel for line in every)
    ]
    note = frames.machine_note(rows, folder) if every else "No two numbers of nodes have a valid cell."
    return Charts(charts, Legend(_key(every)), " · ".join(filter(None, [note, *map(law_in_words, every)])))


def _nodes(every: list[Line], panel: str, sheet: Sheet) -> None:
    for number, line in enumerate(every):
        if line.panel == panel:
            _draw(sheet, line, number)
    sheet.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    sheet.axes.set_ylim(bottom=0)
    sheet.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    sheet.axes.set_xlabel("server nodes, each with its server threads")
    sheet.axes.set_ylabel("throughput [samples/s]")


def _draw(sheet: Sheet, line: Line, number: int) -> None:
    colour, marker = style_of(number)
    counts, rates = line.cells[NODES].to_numpy(float), line.cells["throughput"].to_numpy(float)
    low, high = line.cells["throughput_low"].to_numpy(float), line.cells["throughput_high"].to_numpy(float)
    (drawn,) = sheet.axes.plot(counts, rates, marker, color=colour, ms=6, label=line.name)
    sheet.add_tooltips(drawn, [_words(line, cell) for _, cell in line.cells.iterrows()])
    if np.isfinite(low).all() and np.isfinite(high).all():
        sheet.axes.vlines(counts, low, high, color=colour, lw=1.2)
    sheet.axes.plot(counts, rates[0] * counts / counts[0], ":", color=GREY, lw=1.2)
    if isinstance(line.law, usl.Law) and line.law.fits:
        whole = np.linspace(counts.min(), counts.max(), 100)
        sheet.axes.plot(whole, [line.law.at(count) for count in whole], "-", color=colour, lw=1.6)
    else:
        sheet.axes.plot(counts, rates, "--", color=colour, lw=1.0)


def _words(line: Line, cell: Any) -> str:
    low, high = cell["throughput_low"], cell["throughput_high"]
    between = f" ({low:,.0f} to {high:,.0f})" if math.isfinite(low) else ""
    return (
        f"{line.name}, {plural(int(cell[NODES]), 'node')}, {plural(int(cell['client_threads']), 'client')}\n"
        f"{cell['throughput']:,.0f} samples/s{between}"
    )


def law_in_words(line: Line) -> str:
    """Return in words the law fitted to a line, or why there is none."""
    if isinstance(line.law, str):
        return f"{line.name}: no law, {line.law}"
    if not line.law.fits:
        return f"{line.name}: the law does not fit (a residual of {line.law.residual:.0%})"
    return (
        f"{line.name}: contention {line.law.alpha:.3f} {between(line.law.alpha_interval, 3)}, "
        f"coherency {line.law.beta:.4f} {between(line.law.beta_interval, 4)} over nodes"
    )


def _key(every: list[Line]) -> list[Line2D]:
    artists = [
        Line2D([], [], color=style_of(number)[0], marker=style_of(number)[1], ls="-", ms=6, label=line.name)
        for number, line in enumerate(every)
    ]
    return [*artists, Line2D([], [], color=GREY, ls=":", label="perfect scaling")] if artists else []
