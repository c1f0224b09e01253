"""`imdb-serving trace`: some requests of a cell, for Perfetto or Chrome."""

from __future__ import annotations

import sys
from pathlib import Path

from imdb_serving.bench.record.ledger import FILE
from imdb_serving.errors import ConfigError, DataError


def write_requests(
    folder: Path, out: Path | None, requests: int, mode: str, engine: str, server_threads: int, clients: int
) -> None:
    """Write a trace of requests of one cell, that of the highest throughput among those that fit what is given."""
    from imdb_serving.report import frames
    from imdb_serving.report.lives import lives, row_of
    from imdb_serving.report.trace import write_trace

    if not (folder / FILE).is_file():
        raise DataError(f"{folder} holds no {FILE}; run `imdb-serving sweep` first")
    rows = frames.load(folder)
    wanted = {"mode": mode, "engine": engine, "server_threads": server_threads, "client_threads": clients}
    for name, value in wanted.items():
        if not value:
            continue
        there = sorted(set(rows[name]))
        rows = rows[rows[name] == value]
        if rows.empty:
            words = name.replace("_", " ")
            raise ConfigError(f"no cell with {words} {value}; there is {', '.join(map(str, there))}")
    row = row_of(rows, "")
    sampled = lives(folder, row, requests)
    path = out or folder / "trace.json"
    cell = row["cell"].label()
    write_trace(sampled, path, {"cell": cell, "round": int(row["round"]), "samples": str(row["raw"])})
    print(f"{len(sampled)} requests of {cell}", file=sys.stderr)
    print(f"{path}: open it at https://ui.perfetto.dev or chrome://tracing")
