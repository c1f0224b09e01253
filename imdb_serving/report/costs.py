"""Whose CPU time a request takes, and what limits each cell and each curve."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from imdb_serving.analysis import usl
from imdb_serving.analysis.bounds import WORKERS, front_cpu_us, op_names, utilisation, workers_cpu_us
from imdb_serving.analysis.usl import Curve, analyse
from imdb_serving.cell import LOCAL_MODES, plural
from imdb_serving.report import frames
from imdb_serving.report.tables import styled
from imdb_serving.report.ways import LIMITS

FRONT_PROCESS, WORKER_PROCESSES, SERVER_PROCESS, CLIENT_PROCESSES = "front", "workers", "server", "clients"


def cpu_shares(cell: Any) -> dict[str, float]:
    """Return the shares of a request's CPU time, by the processes that took it; those below half a per cent left out.

    A server whose workers are in processes of their own has a front and workers, any other is one process.
    """
    whole = cell["server_cpu_us"] + cell["client_cpu_us"]
    front, workers = front_cpu_us(cell), workers_cpu_us(cell)
    if front is None or workers is None:
        parts = {SERVER_PROCESS: cell["server_cpu_us"]}
    else:
        parts = {WORKER_PROCESSES: workers, FRONT_PROCESS: front}
    parts[CLIENT_PROCESSES] = cell["client_cpu_us"]
    return {name: part / whole for name, part in parts.items() if part / whole >= 0.005}


def op_share(cell: Any) -> tuple[str, float]:
    """Return the op that takes most of the ops' time in a worker, and its share of that."""
    times = {name: float(cell[f"{name}_us"]) for name in op_names(cell)}
    most = max(times, key=lambda name: times[name], default="")
    return most, times[most] / (sum(times.values()) or 1.0) if most else 0.0


def curves(rows: pd.DataFrame, cells: pd.DataFrame, folder: Path) -> dict[tuple[str, str, int], Curve]:
    """Return the analysis of every curve that has a valid cell, by line, panel and server threads."""
    found = {}
    chosen, cores, wake_up = frames.grid(rows), frames.cores(rows, folder), frames.wake_up_us(rows, folder)
    for (line, panel, threads), own in cells.groupby(["line", "panel", "threads"], sort=False):
        if threads and (curve := analyse(own, chosen, cores, wake_up)) is not None:
            found[str(line), str(panel), int(str(threads))] = curve
    return found


def of_cells(cells: pd.DataFrame, cores: float) -> Any:
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
                "limit": LIMITS[busy.limit] + (f" ({busy.most})" if busy.limit == WORKERS else ""),
                "cores": "" if math.isnan(busy.cores) else f"{busy.cores:.0%}",
                "workers": f"{busy.workers:.0%}",
                "one interpreter": f"{busy.front:.0%}" if busy.front else "",
                "client processes": f"{busy.clients:.0%}",
                "of the clients' ceiling": "" if pd.isna(cell["of_ceiling"]) else f"{cell['of_ceiling']:.0%}",
                "CPU µs: server": "not known" if pd.isna(cell["server_cpu_us"]) else f"{cell['server_cpu_us']:,.0f}",
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


def between(interval: usl.Interval | None, digits: int) -> str:
    """Return an interval in words, or that there is none to tell."""
    if interval is None:
        return "(one round: no interval)"
    return f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _law(law: usl.Law | str) -> dict[str, str]:
    if isinstance(law, str):
        return {"contention": law, "coherency": "", "greatest residual": "", "peak [clients]": ""}
    alpha = f"{law.alpha:.3f} {between(law.alpha_interval, 3)}"
    beta = f"{law.beta:.4f} {between(law.beta_interval, 4)}"
    if not law.fits:
        peak = "the law does not fit"
    elif law.peak == math.inf:
        peak = "none that can be told"
    elif law.peak > usl.FURTHEST * law.most:
        peak = f"beyond {usl.FURTHEST * law.most:.0f}"
    else:
        peak = f"{law.peak:.1f}"
    residual = f"{law.residual:.1%}"
    return {"contention": alpha, "coherency": beta, "greatest residual": residual, "peak [clients]": peak}
