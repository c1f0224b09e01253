"""The overhead ladder, a chart an engine: what each rung adds to a request."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.lines import Line2D

from imdb_serving.bench.cell import plural
from imdb_serving.bench.runs.ladder import RUNGS
from imdb_serving.report import frames, ladder
from imdb_serving.report.charts.chart import Chart, Charts, sheet
from imdb_serving.report.charts.key import Key
from imdb_serving.report.ladder_plots import added_axis, draw_case
from imdb_serving.report.plots import style_of

SIZE = 5.0, 4.8


def rungs(rows: pd.DataFrame | None, folder: Path, why_not: str = "") -> Charts:
    """Return the charts of a ladder's rows; none, and why, where it was not measured."""
    if rows is None:
        return Charts([], note=why_not)
    cases = ladder.cases(rows)
    engines = dict.fromkeys(engine for engine, _ in cases)
    charts = [_chart(rows, engine, [case for case in cases if case[0] == engine]) for engine in engines]
    counts = list(dict.fromkeys(clients for _, clients in cases))
    handles = []
    for number, clients in enumerate(counts):
        colour, marker = style_of(number)
        handles.append(Line2D([], [], color=colour, marker=marker, lw=1.6, label=plural(clients, "client")))
    note = (
        f"{plural(int(rows['server_threads'].max()), 'worker')}, {plural(rows['round'].nunique(), 'round')}; medians "
        f"with 95 % intervals, hollow where 0 lies inside; {frames.machine_note(rows, folder)}"
    )
    return Charts(charts, Key(handles), note)


def _chart(rows: pd.DataFrame, engine: str, cases: list[ladder.Case]) -> Chart:
    with sheet(SIZE) as page:
        for number, case in enumerate(cases):
            table = ladder.additions(rows, case)
            for dot, rung in draw_case(page.axes, rows, case, number, len(cases)):
                row = table.loc[rung]
                interval = f"{row['adds']:+,.0f} µs ({row['adds low']:,.0f} to {row['adds high']:,.0f})"
                words = f"{rung}: {ladder.MEANING[rung]}\n{plural(case[1], 'client')}: {interval}"
                page.tell(dot, [words], {"engine": engine})
        page.axes.set_yticks(range(len(RUNGS)), list(RUNGS))
        page.axes.invert_yaxis()
        added_axis(page.axes, [ladder.additions(rows, case) for case in cases])
        return page.chart(f"Added to a request, engine {engine}")
