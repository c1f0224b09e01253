"""`imdb-serving flask-benchmark`: the published Flask table, the same arrangement measured here, and our Flask mode."""

from __future__ import annotations

import sys
from math import nan
from pathlib import Path
from typing import Any

from imdb_serving.bench.analysis import reference
from imdb_serving.bench.analysis.summary import serving_seconds
from imdb_serving.bench.parameters import GridParams
from imdb_serving.bench.record.rows import Row
from imdb_serving.bench.runs.grid import describe, run_grid
from imdb_serving.bench.runs.models import require_model
from imdb_serving.workers.janitor import fleeting_folder

CLIENTS = [1, 2, 4, 8, 12, 16, 20, 24]
TIMEOUT = 60.0
WAYS = (("as published", "flask-dev", "curl"), ("flask, keep-alive", "flask", "keep-alive"))


def run_flask_benchmark(model: Path | None, samples: int, server_threads: int) -> int:
    """Measure both arrangements and print the table; returns the exit code: 0, or 1 when a cell failed."""
    rows = {}
    with fleeting_folder() as folder:
        for way, mode, http_client in WAYS:
            params = GridParams(
                mode=mode,
                http_client=http_client,
                model=str(model.resolve()) if model else "",
                server_threads=server_threads,
                client_threads=CLIENTS,
                samples=samples,
                timeout=TIMEOUT,
                outputs=folder,
            )
            require_model(params)
            print(f"{way}: {mode}, {http_client} clients, {server_threads} server threads", file=sys.stderr)
            rows[way] = run_grid(params, lambda text: print(f"  {text}", file=sys.stderr))
    print(_table(rows, samples))
    failed = [row for group in rows.values() for row in group if row.error]
    for row in failed:
        print(describe(row), file=sys.stderr)
    return 1 if failed else 0


def _table(rows: dict[str, list[Row]], samples: int) -> str:
    published: Any = reference.published("flask").set_index("client_threads")
    lines = [
        "Seconds. Serving time: what Flask waited for its answers, summed over all requests; total time: what a client",
        f"needs for its share of {samples:,} samples, the published {reference.SAMPLES:,} on {reference.HARDWARE}.",
        "",
        f"{'':>8}" + "".join(f"{name:>28}" for name in ("published 2020", *rows)),
        f"{'clients':>8}" + f"{'serving':>16}{'total':>12}" * (1 + len(rows)),
    ]
    for number, clients in enumerate(CLIENTS):
        figures = [(published.loc[clients, "serving_s"], published.loc[clients, "total_s"])]
        figures += [(_serving(group[number]), group[number].sums_s.get("total", nan)) for group in rows.values()]
        lines.append("".join([f"{clients:>8}", *(f"{serving:>16.3f}{total:>12.3f}" for serving, total in figures)]))
    return "\n".join(lines)


def _serving(row: Row) -> float:
    """Return the serving time of all requests of a cell, NaN for one that failed."""
    sums = {f"{name}_s": seconds for name, seconds in row.sums_s.items()}
    return float(serving_seconds({**sums, "client_threads": row.cell.client_threads}, row.stages)) if sums else nan
