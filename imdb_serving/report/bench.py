"""The tables and charts of `bench`: our servers beside the limits and the smallest servers of others."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter

from imdb_serving.analysis.cores import cpu_time, greatest_rate
from imdb_serving.analysis.intervals import Estimate, estimate, estimate_positive
from imdb_serving.cell import BENCH, plural
from imdb_serving.experiment.bench import BARE, LIGHT, OURS, WHAT
from imdb_serving.report import frames
from imdb_serving.report.chart import Chart, Charts, Legend, Sheet
from imdb_serving.report.style import COLOURS, GREY

BESIDE = {"rpc": "zmq-echo", "socket": "asgi-uvicorn", "flask": "flask-gunicorn"}
"""With what each of ours is compared first: ZeroMQ's limit, the best of others, and the same framework."""


MORE_CORES = (8, 16, 48)


def load(folder: Path) -> pd.DataFrame:
    """Return the rows of the newest `bench` in a folder; raise `DataError` when there is none."""
    return frames.of_series(folder, BENCH)


def figures(rows: pd.DataFrame, clients: int) -> pd.DataFrame:
    """Return one row for each system with this many clients: medians over the rounds, and ratios with 95 % intervals.

    `of bare` is the throughput as a share of the bare loops' in the same round, `of RPC` of our RPC server's.
    """
    chosen = rows[(rows["client_threads"] == clients) | (rows["mode"] == BARE)]
    rates = chosen.pivot_table(index="round", columns="mode", values="throughput")
    table = []
    for system in [system for system in WHAT if system in rates]:
        own = chosen[chosen["mode"] == system]
        of_bare, of_rpc = (estimate(rates[system] / rates[other]) for other in (BARE, "rpc"))
        medians = own[["throughput", "p50_us", "p99_us", "server_cpu_us", "client_cpu_us"]].median()
        table.append((system, *medians, *of_bare, *of_rpc))
    names = ["throughput", "p50_us", "p99_us", "server_cpu_us", "client_cpu_us"]
    intervals = [f"{what}{part}" for what in ("of bare", "of rpc") for part in ("", " low", " high")]
    return pd.DataFrame(table, columns=["system", *names, *intervals]).set_index("system")


def ratio(rows: pd.DataFrame, clients: int, system: str, other: str) -> tuple[float, float, float]:
    """Return the throughput of one system as a multiple of another's: mean of the rounds' ratios, and its interval."""
    rates = rows[rows["client_threads"] == clients].pivot_table(index="round", columns="mode", values="throughput")
    return estimate(rates[system] / rates[other])


def text(rows: pd.DataFrame) -> str:
    """Return the tables of all client counts, and what each of ours is beside its like, as plain text."""
    engine, rounds = rows["engine"].iloc[0], rows["round"].nunique()
    workers = plural(int(rows["server_threads"].iloc[0]), "worker")
    blocks = []
    for clients in sorted(rows.loc[rows["mode"] != BARE, "client_threads"].unique()):
        lines = [
            f"engine {engine}, {workers}, {plural(int(clients), 'client')}, {plural(rounds, 'round')} (medians; CPU of "
            "all processes; ratios within a round, 95 % intervals)",
            f"  {'system':<16}{'requests/s':>11}{'p50 µs':>9}{'p99 µs':>9}{'CPU µs: server':>16}{'clients':>9}"
            f"{'of our RPC':>12}",
        ]
        for system, row in figures(rows, int(clients)).iterrows():
            interval = f"[{row['of rpc low']:.2f}, {row['of rpc high']:.2f}]"
            lines.append(
                f"  {system:<16}{row['throughput']:>11,.0f}{row['p50_us']:>9,.0f}{row['p99_us']:>9,.0f}"
                f"{row['server_cpu_us']:>16,.0f}{row['client_cpu_us']:>9,.0f}{row['of rpc']:>12.2f}  {interval}"
            )
        for own, other in BESIDE.items():
            mean, low, high = ratio(rows, int(clients), own, other)
            lines.append(f"  our {own} is {mean:.2f} [{low:.2f}, {high:.2f}] times {other}: {WHAT[other]}")
        for name, (mode, processes) in LIGHT.items():
            if processes > 1 and name in set(rows["mode"]):
                mean, low, high = ratio(rows, int(clients), name, f"light-{mode}")
                words = f"our {mode} in {processes} processes is {mean:.2f} [{low:.2f}, {high:.2f}] times one"
                lines.append(f"  {words}, under clients that cost little")
        blocks.append("\n".join([*lines, *_on_more_cores(rows, int(clients))]))
    return "\n\n".join(blocks)


def on_cores(rows: pd.DataFrame, clients: int, mode: str, cores: int) -> Estimate:
    """Return the requests a second that the CPU time of a request allows on cores of the server's own: computed."""
    own = rows[(rows["mode"] == mode) & (rows["client_threads"] == clients)].set_index("round")
    bare = rows[rows["mode"] == BARE].set_index("round")
    engine_us = 1e6 * bare["client_threads"] / bare["throughput"]
    cpu = pd.DataFrame({"whole": own["server_cpu_us"], "engine": engine_us}).dropna()
    told = cpu[cpu["whole"] > 0]  # a block may have been too short for the system's clock of CPU time
    return estimate_positive(
        greatest_rate(cores, cpu_time(mode, whole, engine)) for whole, engine in told.itertuples(index=False)
    )


def _on_more_cores(rows: pd.DataFrame, clients: int) -> list[str]:
    """Return a line a mode of ours: what it gives on more cores."""
    lines = [f"  computed, on cores of the server's own: requests/s with {', '.join(map(str, MORE_CORES))} cores"]
    for mode in OURS:
        found = [on_cores(rows, clients, mode, cores) for cores in MORE_CORES]
        lines.append(
            f"    {mode:<14}" + "".join(f"{one.mean:>11,.0f} [{one.low:,.0f}, {one.high:,.0f}]" for one in found)
        )
    return lines


def charts(rows: pd.DataFrame, note: str) -> Charts:
    """Return requests per second of every system, a chart a client count, and the CPU time of a request.

    `note` says whose machine it was.
    """
    counts = [int(count) for count in sorted(rows.loc[rows["mode"] != BARE, "client_threads"].unique())]
    drawn = [Chart(plural(count, "client"), partial(_rates, rows, count)) for count in counts]
    drawn.append(Chart(f"CPU of a request, {plural(counts[-1], 'client')}", partial(_cpu, _to_draw(rows, counts[-1]))))
    workers = plural(int(rows["server_threads"].iloc[0]), "worker")
    words = (
        f"Our servers beside others · engine {rows['engine'].iloc[0]}, {workers}, "
        f"{plural(rows['round'].nunique(), 'round')}, bars: medians, lines: least to greatest\n{note}"
    )
    return Charts(drawn, Legend([], [("server", COLOURS[1]), ("clients", COLOURS[4])]), words)


def _rates(rows: pd.DataFrame, clients: int, sheet: Sheet) -> None:
    axes = sheet.axes
    table = _to_draw(rows, clients)
    places = np.arange(len(table))
    chosen = rows[rows["client_threads"] == clients]
    for place, (system, rate) in zip(places, table["throughput"].items(), strict=True):
        measured = chosen.loc[chosen["mode"] == system, "throughput"]
        least, greatest = (measured.min(), measured.max()) if len(measured) else (rate, rate)
        colour = COLOURS[0] if system in OURS else COLOURS[5] if system in LIGHT else GREY
        axes.barh(place, rate, 0.66, color=colour)
        axes.plot([least, greatest], [place, place], color="#222222", lw=1.2)
        place_of_number = (max(rate, greatest), place)
        axes.annotate(
            f"{rate:,.0f}", place_of_number, xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(places, list(table.index))
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value else "0"))
    axes.set_xlabel("requests/s")


def _cpu(table: pd.DataFrame, sheet: Sheet) -> None:
    axes, places = sheet.axes, np.arange(len(table))
    axes.barh(places, table["server_cpu_us"], 0.66, color=COLOURS[1])
    axes.barh(places, table["client_cpu_us"], 0.66, left=table["server_cpu_us"], color=COLOURS[4])
    axes.set_yticks(places, list(table.index))
    axes.invert_yaxis()
    axes.set_xlabel("CPU of all processes [µs]")
    axes.grid(visible=False, axis="y")


def _to_draw(rows: pd.DataFrame, clients: int) -> pd.DataFrame:
    """Return the systems to draw: a loop around an engine that answers at once would make all bars short."""
    table = figures(rows, clients)
    return table.drop(BARE, errors="ignore") if (rows["engine"] == "none").all() else table
