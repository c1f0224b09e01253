"""`imdb-serving mlperf`: MLPerf's LoadGen drives our client, and our own load generator does the same beside it."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from imdb_serving.bench.cell import CLOSED, OFFLINE, POISSON
from imdb_serving.bench.load import mlperf
from imdb_serving.bench.load.workload import ReviewWorkload
from imdb_serving.bench.record.folders import outputs_folder
from imdb_serving.bench.record.ledger import Ledger
from imdb_serving.bench.record.rows import Row
from imdb_serving.bench.runs.grid import prepare
from imdb_serving.bench.runs.measuring import measure
from imdb_serving.bench.runs.site import start_round
from imdb_serving.commands.probing import probe_params, with_requests
from imdb_serving.errors import ConfigError

OURS = {"SingleStream": CLOSED, "Server": POISSON, "Offline": OFFLINE}
"""Our arrivals that are what a scenario's are."""


def run_mlperf(
    *, scenario: str, rate: float | None, clients: int, seconds: float, model: Path | None, **options: Any
) -> int:
    """Run a scenario with LoadGen and with our own load, print both, and return 0, or 1 when either is not valid."""
    if (scenario == "Server") != (rate is not None):
        raise ConfigError("mlperf: the scenario Server, and no other, needs --rate, the queries a second to offer")
    count = 1 if scenario == "SingleStream" else clients
    rates = [rate] if rate is not None else []
    params = probe_params("mlperf", count, model, arrivals=OURS[scenario], rates=rates, **options)
    ledger = Ledger(outputs_folder(params))
    with ExitStack() as stack:
        around, session, target = prepare(params, start_round(params, ledger), ledger, stack)
        workload = ReviewWorkload(around.lines, "ids", None, ("prediction",))
        print(f"LoadGen, {scenario}, for {seconds:g} s", file=sys.stderr)
        theirs = mlperf.run_loadgen(
            scenario, target.connect, workload, count, rate=rate or 0.0, seconds=seconds, seed=params.seed
        )
        cell = with_requests(params.cell(count, rate or 0.0), max(int((rate or theirs.rate) * seconds), 10 * count))
        print(f"our own load, {cell.label(['arrivals', 'rate', 'client_threads'])}", file=sys.stderr)
        row = ledger.append(*measure(cell, around, session, "", target))
    print(_table(theirs, row))
    return 0 if theirs.valid and not theirs.failed and not row.error else 1


def _table(theirs: mlperf.Outcome, ours: Row) -> str:
    lines = [f"{'':<28}{'LoadGen':>14}{'ours':>14}{'ours / its':>12}"]
    figures = ours.figures
    for name, one, other in (
        ("requests/s", theirs.rate, figures.request_rate),
        ("p50 [µs]", theirs.p50_us, figures.p50_us),
        ("p99 [µs]", theirs.p99_us, figures.p99_us),
    ):
        told = [f"{value:,.0f}" if value is not None else "not certifiable" for value in (one, other)]
        ratio = f"{other / one:.3f}" if one and other is not None else ""
        lines.append(f"{name:<28}{told[0]:>14}{told[1]:>14}{ratio:>12}")
    lines.append(f"{'valid':<28}{'yes' if theirs.valid else 'no':>14}{ours.status if ours.why else 'yes':>14}")
    if theirs.failed:
        lines.append(f"{theirs.failed} of LoadGen's queries got no answer")
    if ours.why:
        lines.append(f"ours: {ours.why}")
    return "\n".join(lines)
