"""Open loops: latency against the offered rate, as a table and a chart. Closed loops stand in neither."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from imdb_serving.analysis import cells as analysis
from imdb_serving.analysis.intervals import needed
from imdb_serving.cell import plural, varying
from imdb_serving.report import frames
from imdb_serving.report.chart import Chart, Charts, Legend, Sheet
from imdb_serving.report.style import style_of
from imdb_serving.report.tables import styled

THREADS = ("server_threads", "client_threads")
LINES: dict[str, Any] = {"p50_us": "-", "p99_us": "--", "service_p99_us": ":"}
WORDS = {
    "p50_us": "p50, from when a request was due",
    "p99_us": "p99, from when a request was due",
    "service_p99_us": "p99 of the service time alone, from when it was sent",
}


def any_measured(rows: pd.DataFrame) -> bool:
    """Tell whether any open loop was measured."""
    return bool(len(analysis.measured(frames.open_loops(rows))))


def show(rows: pd.DataFrame) -> Any:
    """Return a row an open-loop cell, styled: offered and reached, latencies from the due time, service times."""
    table = []
    for _, cell in _cells(rows).iterrows():
        table.append(
            {
                "mode": cell["line"],
                "with": cell["panel"],
                "server threads": cell["server_threads"],
                "clients": cell["client_threads"],
                "offered [requests/s]": f"{cell['offered']:,.0f}" if pd.notna(cell["offered"]) else "all at once",
                "reached": f"{cell['achieved']:,.0f}",
                "n": f"{cell['requests']:,.0f}",
                "p50 [ms]": _ms(cell, "p50_us", 0.5),
                "p99 [ms]": _ms(cell, "p99_us", 0.99),
                "service p50 [ms]": _ms(cell, "service_p50_us", 0.5),
                "service p99 [ms]": _ms(cell, "service_p99_us", 0.99),
                "valid": "yes" if cell["valid"] else f"no: {cell['why']}",
            }
        )
    return styled(pd.DataFrame(table))


def _ms(cell: Any, column: str, quantile: float) -> str:
    if pd.isna(cell[column]):
        return f"not certifiable with n {cell['requests']:,.0f} (needs {needed(quantile):,})"
    return f"{cell[column] / 1000:.3g}"


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    chosen = frames.open_loops(rows)
    table = analysis.cells(chosen).drop(columns=["threads", "line", "panel"], errors="ignore")
    return table.merge(chosen.drop_duplicates("key")[["key", "line", "panel"]], on="key")


def in_words(rows: pd.DataFrame) -> list[str]:
    """Return a line for each way of serving: the highest rate that can be believed, and what a request took there."""
    cells = _cells(rows)
    told = {"mode", "engine", "arrivals", *varying(list(cells["cell"]))} - {"rate", "series", *THREADS, *frames.FOLLOWS}
    kinds = [cell.without("rate") for cell in cells["cell"]]
    lines = []
    for kind in dict.fromkeys(kinds):
        own = cells[[one == kind for one in kinds]].sort_values("rate")
        threads = f"{plural(kind.server_threads, 'server thread')}, {plural(kind.client_threads, 'client')}"
        lines.append(f"{kind.label(told)}, {threads}: {_highest(own)}.")
    return lines


def _highest(own: pd.DataFrame) -> str:
    """Return in words what the highest valid rate of one way of serving gave, and why a higher one is not valid."""
    sound: Any = own[own["valid"].astype(bool)]
    if sound.empty:
        first: Any = own.iloc[0]
        return f"no rate can be believed; at {first['rate']:,.0f} requests/s: {first['why']}"
    best: Any = sound.iloc[-1]
    times = f"p50 {_ms(best, 'p50_us', 0.5)} ms, p99 {_tail(best)}"
    if pd.isna(best["offered"]):
        return f"{best['achieved']:,.0f} requests/s when all were sent at once; {times} from then on"
    more: Any = own[own["rate"] > best["rate"]]
    beyond = f"at {more.iloc[0]['rate']:,.0f}: {more.iloc[0]['why']}" if len(more) else "no higher rate was measured"
    return f"{best['rate']:,.0f} requests/s offered, {times} from when a request was due; {beyond}"


def _tail(cell: Any) -> str:
    words = _ms(cell, "p99_us", 0.99)
    return words if words.startswith("not") else f"{words} ms"


def latency(rows: pd.DataFrame, folder: Path) -> Charts:
    """Return latency and service time against the offered rate, a colour a thread count; hollow: not valid."""
    cells = _cells(rows)
    cells = cells[cells["offered"].notna()]
    several = len(set(cells["client_threads"])) > 1
    curves, handles = [], []
    for number, (name, own) in enumerate(cells.groupby(["mode", "panel", *THREADS], sort=False)):
        mode, panel, servers, count = map(str, name)
        clients = plural(int(count), "client") if several else ""
        label = ", ".join(filter(None, [mode, panel, plural(int(servers), "server thread"), clients]))
        colour, marker = style_of(number)
        handles.append(Line2D([], [], color=colour, marker=marker, lw=1.7, label=label))
        curves.append((label, own.sort_values("offered"), colour, marker))
    handles += [Line2D([], [], ls=dashes, color="#444444", label=WORDS[name]) for name, dashes in LINES.items()]
    chart = Chart("Latency at an offered rate", partial(_latency, curves), (8.4, 4.4))
    return Charts([chart], Legend(handles), frames.machine_note(rows, folder))


def _latency(curves: list[tuple[str, pd.DataFrame, str, str]], sheet: Sheet) -> None:
    axes = sheet.axes
    for curve in curves:
        _curve(sheet, *curve)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.5, high * 1.5)  # so that there are numbers on the axis where all times are alike
    axes.set_xlim(left=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if f"{value:e}"[0] in "25" else ""))
    axes.set_xlabel("offered [requests/s]")
    axes.set_ylabel("time of a request [ms]")


def _curve(sheet: Sheet, label: str, own: pd.DataFrame, colour: str, marker: str) -> None:
    bad = own[~own["valid"].astype(bool)]
    inside = sheet.axes.get_facecolor()
    for column, dashes in LINES.items():
        (line,) = sheet.axes.plot(
            own["offered"], own[column] / 1000, ls=dashes, marker=marker, color=colour, lw=1.7, ms=5.5
        )
        times = zip(own["offered"], own[column] / 1000, strict=True)
        told = [f"{label}\n{rate:,.0f} requests/s: {time:.3g} ms\n{WORDS[column]}" for rate, time in times]
        sheet.add_tooltips(line, told, {"mode": label.partition(",")[0]})
        sheet.axes.plot(
            bad["offered"], bad[column] / 1000, marker, mfc=inside, mec=colour, mew=1.4, ms=5.5, ls="", zorder=4
        )
