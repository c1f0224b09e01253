"""The overhead ladder's tables: what each rung adds, and what the published Flask numbers measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imdb_serving.analysis import cells as analysis
from imdb_serving.analysis import published as reference
from imdb_serving.analysis.cells import frame
from imdb_serving.analysis.intervals import Estimate, estimate
from imdb_serving.analysis.summary import NOT_SERVING
from imdb_serving.cell import LADDER, Row, plural
from imdb_serving.errors import DataError
from imdb_serving.experiment.beside import WITHOUT, is_plain
from imdb_serving.experiment.ladder import ALL, ASIDE, RUNGS, rung_of
from imdb_serving.measurement.ledger import read_samples
from imdb_serving.report import frames
from imdb_serving.report.tables import styled

LEAST_ROUNDS = 2
SHOWN = 3
"""Of the reasons why rounds are missing."""

ACK_MS = (35.0, 50.0)
"""Where requests would gather that wait for a delayed acknowledgement: Linux waits 40 ms."""

MEANING = {
    "bare": "the engine alone, its feed laid out beforehand",
    "inproc": "+ the ops around it, in the client's process",
    "socket": "+ RPC to a worker, over a plain Unix socket",
    "rpc-ipc": "+ ZeroMQ instead of the plain socket",
    "rpc-tcp": "+ TCP instead of the Unix socket",
    "flask": "+ HTTP, JSON and Flask instead of RPC",
    "flask-gateway": "+ an RPC server behind Flask",
    "flask-dev": "+ Werkzeug's one thread, a connection a request",
    "flask-dev-curl": "+ a curl process a request",
}

FIRST, *_, LAST = RUNGS
BEFORE_FLASK = "rpc-tcp"
"""The rung to which Flask's is the next, and so are those of servers beside it."""

NARROW: list[Any] = [
    {"selector": "", "props": "font-size: 80%"},
    {"selector": "th, td", "props": "text-align: left; white-space: nowrap; padding: 0.25em 0.4em"},
]
"""Lets a wide table fit a page."""

Case = tuple[str, int]


def load(folder: Path) -> pd.DataFrame:
    """Return the rungs of the newest run in a folder; raise `DataError` as `rungs` does, or when there is no ledger."""
    return rungs(frames.rows_of(folder))


def if_measured(folder: Path) -> tuple[pd.DataFrame | None, str]:
    """Return the rungs of a sweep's newest run, or None and why there are none to show."""
    try:
        return load(folder), ""
    except DataError as error:
        return None, f"Not shown: {error}."


def rungs(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the valid rows of a ladder, with their rung; raise `DataError` when too few rounds have all rungs."""
    table = frame([row for row in rows if row.cell.series == LADDER])
    if table.empty:
        raise DataError("the ladder was not measured: set `ladder_rounds` in the parameter file")
    table["rung"] = [rung_of(cell) for cell in table["cell"]]
    whole: Any = table.groupby(["engine", "round"])["rung"].transform(lambda names: LAST in set(names))
    table = table[whole.astype(bool)]  # others have the rungs of the recommended cell alone
    sound = analysis.valid(table)
    for case in cases(table):
        engine, clients = case
        own = sound[(sound["engine"] == engine) & (sound["client_threads"] == clients)]
        whole = [number for number, part in own.groupby("round") if set(part["rung"]) >= set(ALL)]
        if len(whole) < LEAST_ROUNDS:
            bad = table[(table["engine"] == engine) & (table["client_threads"] == clients) & (table["why"] != "")]
            reasons = list(dict.fromkeys(f"{row.rung}, round {row.round}: {row.why}" for row in bad.itertuples()))
            more = [f"and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else []
            why = "; ".join([*reasons[:SHOWN], *more])
            raise DataError(
                f"engine {engine}, {plural(clients, 'client')}: {plural(len(whole), 'round')} with all rungs, of "
                f"{LEAST_ROUNDS} needed ({why or 'the others were not measured'}); measure the ladder again"
            )
    return sound.reset_index(drop=True)


def cases(rows: pd.DataFrame) -> list[Case]:
    """Return the engines and client counts that were measured, in the order measured."""
    engines = list(dict.fromkeys(rows["engine"]))
    return [(engine, int(clients)) for engine in engines for clients in sorted(rows["client_threads"].unique())]


def by_round(rows: pd.DataFrame, case: Case, column: str = "p50_us") -> pd.DataFrame:
    """Return a request's median microseconds, or another figure, a row a round with all rungs and a column a rung."""
    engine, clients = case
    chosen = rows[(rows["engine"] == engine) & (rows["client_threads"] == clients) & rows["rung"].isin(list(ALL))]
    return chosen.pivot_table(index="round", columns="rung", values=column)[list(ALL)].dropna()


def additions(rows: pd.DataFrame, case: Case) -> pd.DataFrame:
    """Return a row a rung: a request's time, what the rung adds to the one before, its interval, and its share.

    Additions are differences within a round, averaged over the rounds; so they add up to the last rung's time exactly.
    """
    times = by_round(rows, case)[list(RUNGS)]
    steps = times.diff(axis=1)
    steps[FIRST] = times[FIRST]
    whole = float(times[LAST].mean())
    table = []
    for rung in RUNGS:
        total, added = estimate(times[rung]), estimate(steps[rung])
        table.append((rung, *total, *added, added.mean / whole))
    names = ["rung", "total", "total low", "total high", "adds", "adds low", "adds high", "share"]
    return pd.DataFrame(table, columns=names).set_index("rung")


def beside(rows: pd.DataFrame, case: Case) -> pd.DataFrame:
    """Return a row for each server measured beside `flask`: a request's time, and what it adds in place of Flask."""
    engine, clients = case
    chosen = rows[(rows["engine"] == engine) & (rows["client_threads"] == clients)]
    times = chosen.pivot_table(index="round", columns="rung", values="p50_us")
    table = []
    for name in others(chosen):
        both = times[[name, BEFORE_FLASK]].dropna()
        if len(both) >= LEAST_ROUNDS:
            table.append((name, *estimate(both[name]), *estimate(both[name] - both[BEFORE_FLASK])))
    names = ["rung", "total", "total low", "total high", "adds", "adds low", "adds high"]
    return pd.DataFrame(table, columns=names).set_index("rung").sort_values("adds")


def others(rows: pd.DataFrame) -> list[str]:
    """Return the servers that were measured beside `flask`."""
    return [str(name) for name in dict.fromkeys(rows["rung"]) if name not in ALL]


def meaning(rung: str) -> str:
    """Return in words what a rung is, or a server beside `flask`."""
    if rung in MEANING:
        return MEANING[rung]
    what = f"plain Flask: {WITHOUT}" if is_plain(rung) else "requests made before"
    return f"in place of flask; {what}"


def show(rows: pd.DataFrame) -> Any:
    """Return a table of all cases, a block an engine: what each rung adds in microseconds, its interval, its share.

    Servers beside `flask` follow, with what they add in its place.
    """
    blocks = []
    for engine in dict.fromkeys(engine for engine, _ in cases(rows)):
        names = others(rows[rows["engine"] == engine])
        columns: dict[tuple[str, str], list[str]] = {
            ("", "what the rung is"): [
                *(MEANING[rung] for rung in RUNGS),
                "the sum, and the last rung's own time",
                *map(meaning, names),
            ]
        }
        for case in [case for case in cases(rows) if case[0] == engine]:
            table, own, head = additions(rows, case), beside(rows, case), plural(case[1], "client")
            columns[head, "adds [µs]"] = [
                *(_adds(row) for _, row in table.iterrows()),
                f"{table['adds'].sum():,.0f}  ({table['total'].iloc[-1]:,.0f})",
                *(_adds(own.loc[name]) if name in own.index else "not measured" for name in names),
            ]
            shares = [*(f"{share:.1%}" for share in table["share"]), f"{table['share'].sum():.0%}"]
            columns[head, "share"] = shares + [""] * len(names)
        index = pd.MultiIndex.from_product([[engine], [*RUNGS, "all", *names]], names=["engine", "rung"])
        blocks.append(pd.DataFrame(columns, index=index))
    shown = pd.concat(blocks)
    return shown.style.set_table_styles([*NARROW, {"selector": "td.col0", "props": "white-space: normal"}])


def _adds(row: Any) -> str:
    """Return an addition with its interval, and whether it can be told from 0."""
    words = _interval(row["adds"], row["adds low"], row["adds high"])
    added = Estimate(row["adds"], row["adds low"], row["adds high"])
    return f"{words}, {NOT_DISTINGUISHABLE}" if added.holds_zero else words


NOT_DISTINGUISHABLE = "not distinguishable from 0"


def _interval(mean: float, low: float, high: float) -> str:
    return f"{mean:,.0f}  [{low:,.0f}, {high:,.0f}]"


def text(rows: pd.DataFrame) -> str:
    """Return the additions of all cases as plain text for a terminal, in microseconds with 95 % intervals."""
    blocks = []
    for engine, clients in cases(rows):
        lines = [f"engine {engine}, {plural(clients, 'client')}: what each rung adds to a request [µs]"]
        table, own = additions(rows, (engine, clients)), beside(rows, (engine, clients))
        width = max(map(len, [*map(str, table.index), *map(str, own.index)])) + 1
        lines += [_line(str(rung), row, f"{row['share']:.1%}", width) for rung, row in table.iterrows()]
        lines.append(f"  {'all':<{width}}{table['adds'].sum():>10,.0f}")
        lines += [_line(str(name), row, "", width) for name, row in own.iterrows()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _line(rung: str, row: Any, share: str, width: int) -> str:
    interval = f"[{row['adds low']:,.0f}, {row['adds high']:,.0f}]"
    zero = Estimate(row["adds"], row["adds low"], row["adds high"]).holds_zero
    doubt = f" ({NOT_DISTINGUISHABLE})" if zero else ""
    return f"  {rung:<{width}}{row['adds']:>10,.0f}  {interval:<20}{share:>7}  {meaning(rung)}{doubt}"


def slow_requests(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return a row a rung: its requests, and how many took about as long as a delayed acknowledgement."""
    table = []
    for rung in list(RUNGS)[1:]:
        times = latencies(rows, folder, rung)
        table.append((rung, len(times), int(((times >= ACK_MS[0]) & (times <= ACK_MS[1])).sum()), float(times.max())))
    return pd.DataFrame(table, columns=["rung", "requests", "from 35 to 50 ms", "longest [ms]"])


def latencies(rows: pd.DataFrame, folder: Path, rung: str, engine: str | None = None, clients: int = 1) -> Any:
    """Return the single requests' times in ms of one rung with `clients` clients; of all engines when none is named."""
    chosen = rows[(rows["rung"] == rung) & (rows["client_threads"] == clients)]
    if engine is not None:
        chosen = chosen[chosen["engine"] == engine]
    return np.concatenate(
        [read_samples(folder, name, ["client_infer_ns"])["client_infer_ns"].to_numpy() / 1e6 for name in chosen["raw"]]
    )


def published_gap(rows: pd.DataFrame, case: Case) -> pd.DataFrame:
    """Return what makes up the time that the published arrangement adds to the bare model, a row a part.

    JSON is measured beside the ladder and taken out of the rung it belongs to. It is measured with the engine `none`
    where there is one, because a model's own spread would hide it.
    """
    times = by_round(rows, case)
    quiet = by_round(rows, ("none", case[1])) if "none" in set(rows["engine"]) else times
    json = quiet[ASIDE] - quiet["inproc"]
    parts = {
        "curl, a process for every request": times["flask-dev-curl"] - times["flask-dev"],
        "the one thread, and a connection for every request": times["flask-dev"] - times["flask-gateway"],
        "the extra hop: an RPC server behind Flask": times["flask-gateway"] - times["flask"],
        "JSON, both ends": json,
        "HTTP and Flask, in place of RPC": times["flask"] - times["rpc-tcp"] - json,
        "ZeroMQ, in place of a plain socket, and TCP": times["rpc-tcp"] - times["socket"],
        "RPC itself: socket and worker": times["socket"] - times["inproc"],
        "the ops around the model": times["inproc"] - times["bare"],
    }
    whole = float((times["flask-dev-curl"] - times["bare"]).mean())
    table = [(name, *estimate(values), float(values.mean()) / whole) for name, values in parts.items()]
    names = ["part of the gap", "µs a request", "low", "high", "share of the gap"]
    return pd.DataFrame(table, columns=names)


def show_gap(rows: pd.DataFrame) -> Any:
    """Return the parts of the gap for one client and for as many as workers, styled."""
    engine = cases(rows)[0][0]
    columns: dict[tuple[str, str], Any] = {}
    for case in [case for case in cases(rows) if case[0] == engine]:
        gap = published_gap(rows, case)
        columns["", "part of the gap"] = gap["part of the gap"]
        head = plural(case[1], "client")
        columns[head, "µs a request"] = [
            _interval(row["µs a request"], row["low"], row["high"]) for _, row in gap.iterrows()
        ]
        columns[head, "share"] = [f"{share:.1%}" for share in gap["share of the gap"]]
    return styled(pd.DataFrame(columns)).set_table_styles(NARROW)


def outside_serving(rows: pd.DataFrame, case: Case) -> tuple[float, float, float]:
    """Return what the published arrangement spends outside its serving time here, and curl's and JSON's shares of that.

    The first is in milliseconds a request. Serving time is defined as in the published table: the ops and the way to
    them.
    """
    times = by_round(rows, case)
    engine, clients = case
    chosen = rows[(rows["engine"] == engine) & (rows["client_threads"] == clients) & (rows["rung"] == LAST)]
    inside = [name for name in chosen["stages"].iloc[0] if name not in NOT_SERVING]
    serving = chosen.set_index("round")[[f"{name}_us" for name in inside]].sum(axis=1)
    whole = chosen.set_index("round")["mean_us"]
    outside = float((whole - serving).mean())
    curl = float((times[LAST] - times["flask-dev"]).mean())
    json = float((times[ASIDE] - times["inproc"]).mean())
    return outside / 1000, curl / outside, json / outside


def explain_gap(rows: pd.DataFrame) -> str:
    """Return in words what the published Flask numbers measured, by this ladder's shares."""
    engine, together = cases(rows)[0][0], cases(rows)[-1][1]
    curl, thread, hop, json = published_gap(rows, (engine, 1))["share of the gap"].iloc[:4]
    times = by_round(rows, (engine, 1)).mean() / 1000
    outside, curl_outside, json_outside = outside_serving(rows, (engine, 1))
    outside_ms, plateau = _published_figures()
    chosen = rows[(rows["engine"] == engine) & (rows["client_threads"] == together)]
    rates = chosen.groupby("rung")["throughput"].mean()
    workers = plural(int(chosen["server_threads"].max()), "worker")
    return (
        f"With one client, the published arrangement takes {times[LAST]:.1f} ms a request here; the "
        f"{engine} engine alone takes {times['bare']:.2f} ms. Of what lies between, curl is **{curl:.0%}**, the "
        f"one-threaded development server **{thread:.0%}**, the extra hop **{hop:.0%}**, JSON **{json:.1%}**; HTTP, "
        f"Flask, the way to a worker and the ops are the other {1 - curl - thread - hop - json:.0%}.\n\n"
        f"The published run spent {outside_ms:.1f} ms of each request outside what it calls serving time (the ops and "
        f"the way to them). The same arrangement spends {outside:.1f} ms outside it here, of which curl is "
        f"{min(curl_outside, 1):.0%} and JSON {json_outside:.1%}. If these shares held there, "
        f"{outside_ms * min(curl_outside, 1):.1f} ms of it was curl and {outside_ms * json_outside:.2f} ms JSON. Its "
        f"total stops falling at 4 to 8 clients, at {plateau:,.0f} requests/s: there the one thread is the limit, "
        f"whatever the server threads. Here, with {plural(together, 'client')}, one thread answers "
        f"{rates['flask-dev']:,.0f} requests/s, and Flask with {workers} {rates['flask']:,.0f}."
    )


def _published_figures() -> tuple[float, float]:
    """Return the published run's milliseconds a request outside serving, one client, and its highest requests/s."""
    published = reference.published_table("flask")
    alone: Any = published[published["client_threads"] == 1].iloc[0]
    outside = (alone["total_s"] - alone["serving_s"]) / reference.SAMPLES * 1000
    return float(outside), reference.SAMPLES / float(published["total_s"].min())
