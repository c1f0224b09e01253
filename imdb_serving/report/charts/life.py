"""One request's life as a timeline: whose hands it was in, and when."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from imdb_serving.bench.cell import plural
from imdb_serving.errors import DataError
from imdb_serving.report.charts.chart import Charts, sheet
from imdb_serving.report.charts.key import Key
from imdb_serving.report.lives import CLIENT_STAGES, QUEUE, median_life, row_of
from imdb_serving.report.plots import stage_colours
from imdb_serving.timing import NETWORK, WAYS

ROWS = ("client", "on its way", "waiting", "worker")


def life(rows: pd.DataFrame, folder: Path, key: str = "") -> Charts:
    """Return the life of a request of median length of a cell, by its key; of the fastest where none is given."""
    try:
        row = row_of(rows, key)
        one = median_life(folder, row)
    except DataError as error:
        return Charts([], note=f"No request can be drawn: {error}")
    colours = stage_colours([part.name for part in one.parts])
    with sheet((7.6, 2.6)) as page:
        axes = page.axes
        for part in one.parts:
            start, took = (part.start_ns - one.start_ns) / 1000, (part.end_ns - part.start_ns) / 1000
            (bar,) = axes.barh([_row(part.name)], [took], 0.62, left=[start], color=colours[part.name])
            page.tell(bar, [f"{part.name}\n{took:,.1f} µs, from {start:,.1f} µs on"])
            if took > (one.end_ns - one.start_ns) / 1000 * 0.05:
                axes.text(start + took / 2, _row(part.name) - 0.42, part.name, ha="center", va="bottom", fontsize=8.5)
        axes.set_yticks(range(len(ROWS)), list(ROWS))
        axes.set_ylim(len(ROWS) - 0.5, -0.75)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(left=0)
        axes.set_xlabel("time since the request began [µs]")
        clients = plural(int(row["client_threads"]), "client")
        servers = plural(int(row["server_threads"]), "server thread")
        title = ", ".join(filter(None, [f"One request: {row['line']}", str(row["panel"]), servers, clients]))
        chart = page.chart(title)
    swatches = [(part.name, colours[part.name]) for part in one.parts]
    note = "A request of median length. `imdb-serving trace` writes many, for Perfetto."
    return Charts([chart], Key([], swatches), note)


def _row(name: str) -> int:
    if name in CLIENT_STAGES:
        return 0
    if name in {*WAYS, NETWORK}:
        return 1
    return 2 if name == QUEUE else 3
