"""What serving costs over the bare model, whose CPU time a request takes, and what limits each cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from imdb_serving.analysis import usl
from imdb_serving.analysis.bounds import CLIENTS, CORES, NOTHING, WEB_SERVER, WORKERS, op_names, utilisation
from imdb_serving.analysis.cells import valid
from imdb_serving.analysis.cores import ENGINE_OP
from imdb_serving.analysis.intervals import estimate
from imdb_serving.analysis.usl import Curve, analyse
from imdb_serving.cell import LADDER, LOCAL_MODES, plural
from imdb_serving.experiment.ladder import rung_of
from imdb_serving.report import frames
from imdb_serving.report.tables import styled

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


LIMITS = {
    CORES: "cores",
    WORKERS: "workers ({most})",
    WEB_SERVER: "the web server's one thread",
    CLIENTS: "too few clients",
    NOTHING: "nothing is busy",
}


def curves(rows: pd.DataFrame, cells: pd.DataFrame, folder: Path) -> dict[tuple[str, str, int], Curve]:
    """Return the analysis of every curve that has a valid cell, by line, panel and server threads."""
    found = {}
    chosen, cores, wake_up = frames.grid(rows), frames.cores(rows, folder), frames.wake_up_us(rows, folder)
    for (line, panel, threads), own in cells.groupby(["line", "panel", "threads"], sort=False):
        if threads and (curve := analyse(own, chosen, cores, wake_up)) is not None:
            found[str(line), str(panel), int(str(threads))] = curve
    return found


def of_cells(cells: pd.DataFrame, cores: int) -> Any:
    """Return what limits each cell, styled: how busy everything was, and how well the cell's own numbers add up."""
    table = []
    for _, cell in cells[~cells["mode"].isin(LOCAL_MODES)].iterrows():
        busy = utilisation(cell, cores)
        table.append(
            {
                "mode": cell["line"],
                "with": cell["panel"],
                "server threads": cell["server_threads"],
                "clients": cell["client_threads"],
                "limit": LIMITS[busy.limit].format(most=busy.most),
                "cores": f"{busy.cores:.0%}",
                "workers": f"{busy.workers:.0%}",
                "client processes": f"{busy.clients:.0%}",
                "of the clients' ceiling": "" if pd.isna(cell["of_ceiling"]) else f"{cell['of_ceiling']:.0%}",
                "CPU µs: server": f"{cell['server_cpu_us']:,.0f}",
                "clients ": f"{cell['client_cpu_us']:,.0f}",
                "under way (Little)": f"{cell['in_flight']:.2f}",
                "in no stage [µs]": f"{cell['residual_us']:.1f}",
                "valid": "yes" if cell["valid"] else "no",
            }
        )
    shown = pd.DataFrame(table)
    return styled(shown if cells["panel"].any() else shown.drop(columns="with", errors="ignore"))


def of_curves(found: dict[tuple[str, str, int], Curve]) -> Any:
    """Return bounds, knee and law of each curve, styled; where the law does not fit, that is what is said."""
    table = []
    for (line, panel, threads), curve in found.items():
        table.append(
            {
                "curve": ", ".join(filter(None, [line, panel, plural(threads, "server thread")])),
                "one client, cores awake [ms]": f"{curve.bounds.alone_us / 1000:.3g}",
                "workers allow [requests/s]": f"{curve.bounds.workers:,.0f}",
                "cores allow [requests/s]": f"{curve.bounds.cores:,.0f}",
                "knee [clients]": str(curve.knee),
                **_law(curve.law),
            }
        )
    return styled(pd.DataFrame(table))


def _law(law: usl.Law | str) -> dict[str, str]:
    if isinstance(law, str):
        return {"contention": law, "coherency": "", "greatest residual": "", "peak [clients]": ""}
    alpha = f"{law.alpha:.3f} [{law.alpha_interval[0]:.3f}, {law.alpha_interval[1]:.3f}]"
    beta = f"{law.beta:.4f} [{law.beta_interval[0]:.4f}, {law.beta_interval[1]:.4f}]"
    if not law.fits:
        peak = "the law does not fit"
    elif law.peak > usl.FURTHEST * law.most:
        peak = f"beyond {usl.FURTHEST * law.most:.0f}"
    else:
        peak = f"{law.peak:.1f}"
    residual = f"{law.residual:.1%}"
    return {"contention": alpha, "coherency": beta, "greatest residual": residual, "peak [clients]": peak}
