"""What the grid notebook shows of one run: each function returns a table, a figure, or a line in their place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from imdb_serving.analysis.cells import frame
from imdb_serving.cell import Row
from imdb_serving.report import frames, page, tables
from imdb_serving.report import open_loop as loops
from imdb_serving.report.chart import Chart, Charts, Legend, Sheet
from imdb_serving.report.charts.bars import stack, stages_legend
from imdb_serving.report.charts.curves import PlottedCurve, curves_legend, curves_of, draw_curve
from imdb_serving.report.style import GREY, log_axes, threads_label, used


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the rows as the table that the other functions take."""
    return frames.named(frame(rows))


def failures(rows: pd.DataFrame) -> Any:
    """Return the cells that failed, or whose numbers cannot be believed, with the reasons; a line when none did."""
    found = tables.failures(rows)
    return found if len(found) else page.text(f"{tables.failures_in_words(rows)}.")


def published(rows: pd.DataFrame) -> Any:
    """Return the published columns of the cells that were measured."""
    return tables.show_published(rows)


def figure(rows: pd.DataFrame, folder: Path) -> Any:
    """Return time per client and stages against client threads; None when no cell succeeded."""
    if not tables.any_measured(rows):
        return None
    cells = frames.cells(rows)
    stages = used(cells.set_index("client_threads")[[f"{name}_s" for name in tables.stage_order(cells)]])
    stages = stages.rename(columns=lambda name: name.removesuffix("_s"))
    curve, *_ = curves_of(cells, str(cells["panel"].iloc[0]))
    charts = [
        Chart("Where a client's time goes", partial(_stages, stages)),
        Chart("Time against client threads", partial(_time, curve)),
    ]
    names = [str(name) for name in stages.columns]
    ideal = Line2D([], [], ls="--", color=GREY, label="ideal: halves with each doubling")
    key = Legend([*curves_legend(cells), ideal], stages_legend(names).swatches)
    heading = f"{threads_label(curve.threads)} · {frames.setting(rows)}\n{frames.machine_note(rows, folder)}"
    return Charts(charts, key).figure(heading)


def _stages(stages: pd.DataFrame, sheet: Sheet) -> None:
    stack(sheet.axes, stages)
    sheet.axes.set_ylabel("time per client [s]")


def _time(curve: PlottedCurve, sheet: Sheet) -> None:
    draw_curve(sheet.axes, curve, "total_s")
    ideal = float(curve.cells["total_s"].iloc[0]) * curve.clients[0] / np.array(curve.clients)
    sheet.axes.plot(curve.clients, ideal, "--", color=GREY)
    log_axes(sheet.axes, curve.clients, "total time per client [s]")


def open_loop(rows: pd.DataFrame) -> Any:
    """Return latency at each offered rate; a line for a closed loop."""
    return loops.show(rows) if loops.any_measured(rows) else page.text("Not an open loop: set `arrivals` and `rates`.")


def open_loop_figure(rows: pd.DataFrame, folder: Path) -> Any:
    """Return latency against the offered rate; None for a closed loop."""
    if not loops.any_measured(rows):
        return None
    charts = loops.latency(rows, folder)
    return charts.figure(charts.note)
