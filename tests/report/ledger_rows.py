"""Rows as a sweep writes them, made up: what a cell measures follows from its thread counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from imdb_serving.analysis import summary
from imdb_serving.analysis.cells import frame
from imdb_serving.cell import FIELDS, Cell, Figures, Row, digest
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.report import frames
from imdb_serving.timing import CLIENT_STAGES

US = 1000
CELL: dict[str, Any] = {"engine": "none", "net": "cnn", "samples": 2500, "endpoint": "tcp"}


def row(server_threads: int, clients: int, round_: int = 1, **changes: Any) -> Row:
    """One measured cell; a round is 10 % slower than the one before. Changes are of the cell or of the row.

    `stages` are its stages, each of the same length.
    """
    own = {name: value for name, value in changes.items() if name not in FIELDS}
    names = own.pop("stages", CLIENT_STAGES)
    given = {name: value for name, value in changes.items() if name in FIELDS}
    cell = Cell(**CELL | {"server_threads": server_threads, "client_threads": clients} | given)
    stages = np.full((4, len(names)), 100 * US * clients * (9 + round_) // (10 * server_threads))
    infer = stages.sum(axis=1)
    durations = np.column_stack([np.full(4, 50 * US), infer, stages, np.full(4, 20 * US), infer + 70 * US])
    columns = ("prepro", "client_infer", *names, "postpro", "total")
    record = ClientRecord(columns, list(range(4)), np.arange(4), durations, [0] * 4, window_ns=(0, 10_000_000))
    rate = 1000.0 * server_threads * clients / (clients + 1) / (1 + 0.1 * (round_ - 1))
    figures = Figures(
        wall_s=0.01,
        window_s=0.01,
        throughput=rate,
        request_rate=rate,
        **summary.latency([record]),  # type: ignore[arg-type]
    )
    values: dict[str, Any] = {
        "run": "run-a", "key": digest(cell), "cell": cell, "round": round_, "began": "", "seed": 1, "card": "card",
        "requests": 4, "answered": 4, "answers": "0" * 32, "accuracy": 0.875, "stages": tuple(names),
        "sums_s": summary.stage_sums([record]), "means_us": summary.stage_means([record]), "figures": figures,
    }  # fmt: skip
    return Row(**values | own)


def failed(server_threads: int, clients: int, round_: int = 1, **changes: Any) -> Row:
    """A cell that could not be measured."""
    cell = Cell(**CELL | {"server_threads": server_threads, "client_threads": clients} | changes)
    return Row(
        run="run-a", key=digest(cell), cell=cell, round=round_, began="", seed=1, card="card", status="failed",
        error="ServerUnavailable: gone",
    )  # fmt: skip


def table(rows: list[Row]) -> pd.DataFrame:
    """The rows as reports have them."""
    return frames.named(frame(rows))


def rows_of(
    servers: tuple[int, ...] = (1, 2),
    clients: tuple[int, ...] = (1, 2, 4),
    rounds: int = 3,
    modes: tuple[str, ...] = ("rpc",),
    **changes: Any,
) -> list[Row]:
    """A whole sweep's rows."""
    cells = [(m, s, c, r) for r in range(1, rounds + 1) for m in modes for s in servers for c in clients]
    return [row(s, c, r, mode=m, **changes) for m, s, c, r in cells]


def grid(*args: Any, **changes: Any) -> pd.DataFrame:
    """A whole sweep as reports have it."""
    return table(rows_of(*args, **changes))
