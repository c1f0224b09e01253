"""Server threads against client threads as a heat map of throughput, one a mode and engine."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize

from imdb_serving.report import frames
from imdb_serving.report.charts.chart import Chart, Charts, sheet
from imdb_serving.report.charts.curves import NO_SERVER, data_of, words
from imdb_serving.report.curves import Drawn, curves_of

MAP = "cividis"
DARK = 0.55
"""Up to this share of the highest throughput a field is so dark that its number must be light."""


def heat(rows: pd.DataFrame, folder: Path) -> Charts:
    """Return a map for each mode and engine that was measured with several server-thread counts; else for all."""
    cells = frames.cells(rows)
    groups: dict[tuple[str, str], list[Drawn]] = {}
    for panel in frames.panels(cells):
        for curve in curves_of(cells, panel):
            if curve.threads:
                groups.setdefault((panel, curve.line), []).append(curve)
    if not groups:
        return Charts([], note=NO_SERVER)
    several = {name: own for name, own in groups.items() if len(own) > 1}
    charts = [_map(panel, line, own) for (panel, line), own in (several or groups).items()]
    note = "The lighter, the more samples a second; * marks the most, a hatched field is not valid."
    left = len(groups) - len(charts)
    if left:
        note += f" {left} of one server-thread count {'is' if left == 1 else 'are'} left out."
    if shared := frames.machine_note(rows, folder):
        note += f" {shared[:1].upper()}{shared[1:]}."
    return Charts(charts, note=note)


def _map(panel: str, line: str, own: list[Drawn]) -> Chart:
    clients = sorted({count for curve in own for count in curve.clients})
    highest = max(float(curve.cells["throughput"].max()) for curve in own)
    colours, scale = mpl.colormaps[MAP], Normalize(0, highest)
    with sheet((1.3 + 0.62 * len(clients), 1.0 + 0.52 * len(own))) as page:
        axes = page.axes
        for row, curve in enumerate(own):
            for _, cell in curve.cells.iterrows():
                column, value = clients.index(int(cell["client_threads"])), float(cell["throughput"])
                (field,) = axes.bar(
                    [column], [1], 1, [row - 0.5], color=colours(scale(value)), edgecolor=axes.get_facecolor()
                )
                if not cell["valid"]:
                    field.set_hatch("///")
                page.tell(field, [words(curve, cell)], data_of(curve))
                ink = "white" if value < DARK * highest else "black"
                mark = "*" if value == highest else ""
                axes.text(column, row, f"{_short(value)}{mark}", ha="center", va="center", color=ink, fontsize=9)
        axes.set_xticks(np.arange(len(clients)), [str(count) for count in clients])
        axes.set_yticks(np.arange(len(own)), [str(curve.threads) for curve in own])
        axes.set_xlim(-0.5, len(clients) - 0.5)
        axes.set_ylim(-0.5, len(own) - 0.5)
        axes.grid(visible=False)
        axes.set_xlabel("client threads")
        axes.set_ylabel("server threads")
        return page.chart(", ".join(filter(None, [f"{line}: samples/s", panel])))


def _short(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:,.0f}"
