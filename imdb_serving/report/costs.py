"""What serving costs over the bare model, and whose CPU a request takes. Reads rows; owns the parts and their words."""

from __future__ import annotations

from typing import Any

import pandas as pd

from imdb_serving.bench.analysis.bounds import op_names
from imdb_serving.bench.analysis.cells import valid
from imdb_serving.bench.analysis.intervals import estimate
from imdb_serving.bench.cell import LADDER, plural
from imdb_serving.bench.runs.ladder import rung_of

ENGINE_OP = "op1"
RUNG_OF_MODE = {
    "rpc": "rpc-tcp", "socket": "socket", "flask": "flask", "flask-gateway": "flask-gateway", "flask-dev": "flask-dev",
}  # fmt: skip


def cpu_shares(cells: pd.DataFrame, cell: Any) -> dict[str, float]:
    """Return the shares of a request's CPU time: the engine's, the other ops', the clients', and the transport's.

    The ops' CPU time is their time in the curve's cell with fewest clients, where nothing keeps them from a core.
    """
    alike = cells[(cells["line"] == cell["line"]) & (cells["panel"] == cell["panel"])]
    first: Any = alike[alike["server_threads"] == cell["server_threads"]].sort_values("client_threads").iloc[0]
    whole = cell["server_cpu_us"] + cell["client_cpu_us"]
    engine = min(first.get(f"{ENGINE_OP}_us", 0.0), cell["server_cpu_us"])
    others = sum(first[f"{name}_us"] for name in op_names(first) if name != ENGINE_OP)
    others = min(others, cell["server_cpu_us"] - engine)
    transport = cell["server_cpu_us"] - engine - others
    parts = {ENGINE_OP: engine, "clients": cell["client_cpu_us"], "transport": transport, "other ops": others}
    return {name: part / whole for name, part in parts.items() if part / whole >= 0.005}


def in_words(rows: pd.DataFrame, cells: pd.DataFrame, cell: Any) -> str:
    """Say what serving in a cell's mode adds to the bare engine's time, one client: from the ladder, else the grid."""
    return (
        _by_ladder(rows, cell)
        or _by_grid(cells, cell)
        or ("What serving costs over the bare model was not measured: set ladder_rounds, or add the mode bare.")
    )


def _by_ladder(rows: pd.DataFrame, cell: Any) -> str:
    rungs = valid(rows[(rows["series"] == LADDER) & (rows["engine"] == cell["engine"]) & (rows["client_threads"] == 1)])
    if rungs.empty:
        return ""
    rungs = rungs.assign(rung=[rung_of(one) for one in rungs["cell"]])
    mine = RUNG_OF_MODE[cell["mode"]]
    times = rungs.pivot_table(index="round", columns="rung", values="p50_us")
    if not {"bare", "inproc", mine} <= set(times):
        return ""
    times = times.dropna(subset=["bare", "inproc", mine])
    whole = estimate((times[mine] - times["bare"]) / 1000)
    ops = float((times["inproc"] - times["bare"]).mean()) / 1000
    own = rungs[rungs["rung"] == mine]
    client = float((own["encode_us"] + own["decode_us"]).mean()) / 1000
    parts = f"transport {whole.mean - ops - client:.2g}, client {client:.2g}, ops {ops:.2g}"
    words = (
        f"Serving costs {whole.mean:.2g} ms ({whole.low:.2g} to {whole.high:.2g}) a review over the bare model's "
        f"{times['bare'].mean() / 1000:.2g} ms, one client: {parts}."
    )
    if "flask" in times and mine != "flask":
        more = estimate(((times["flask"] - times[mine]) / 1000).dropna())
        words += (
            " Flask costs the same, as far as can be told."
            if more.holds_zero
            else f" Flask costs {abs(more.mean):.2g} ms {'more' if more.mean > 0 else 'less'}."
        )
    return words


def _by_grid(cells: pd.DataFrame, cell: Any) -> str:
    one = cells[(cells["client_threads"] == 1) & (cells["engine"] == cell["engine"]) & cells["valid"].astype(bool)]
    bare = one[one["mode"] == "bare"]
    served = one[(one["line"] == cell["line"]) & (one["panel"] == cell["panel"])].sort_values("server_threads")
    if bare.empty or served.empty:
        return ""
    alone, over = float(bare["p50_us"].iloc[0]), float(served["p50_us"].iloc[0])
    return (
        f"Serving costs {(over - alone) / 1000:.2g} ms a review over the bare model's {alone / 1000:.2g} ms, one "
        f"client (medians of {plural(int(bare['rounds'].iloc[0]), 'round')})."
    )
