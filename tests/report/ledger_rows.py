"""Rows as a sweep writes them, made up: what a cell measures follows from its thread counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from imdb_serving.bench.loadgen import ClientRecord
from imdb_serving.bench.summary import summarise
from imdb_serving.timing import CLIENT_STAGES

US = 1000
COLUMNS = ("prepro", "client_infer", *CLIENT_STAGES, "postpro", "total")
ROW = {
    "mode": "rpc",
    "http_client": "keep-alive",
    "engine": "null",
    "net": "cnn",
    "samples": 2500,
    "batch": 1,
    "run": "run-a",
    "error": "",
    "answers": "0" * 32,
}


def row(server_threads: int, clients: int, round_: int = 1, **changes: Any) -> dict[str, Any]:
    """One measured cell; a round is 10 % slower than the one before."""
    stages = np.full((4, len(CLIENT_STAGES)), 100 * US * clients * (9 + round_) // (10 * server_threads))
    infer = stages.sum(axis=1)
    durations = np.column_stack([np.full(4, 50 * US), infer, stages, np.full(4, 20 * US), infer + 70 * US])
    record = ClientRecord(COLUMNS, list(range(4)), np.arange(4), durations, [0] * 4, window_ns=(0, 10_000_000))
    cell = {"server_threads": server_threads, "client_threads": clients, "round": round_, "status": "ok"}
    return {**ROW, **cell, "accuracy": 0.875, "order": 0, **summarise([record], 4), **changes}


def failed(server_threads: int, clients: int) -> dict[str, Any]:
    """A cell that could not be measured."""
    key = {"server_threads": server_threads, "client_threads": clients, "round": 1, "accuracy": None}
    return {**ROW, **key, "status": "failed", "error": "ServerUnavailable: gone"}


def grid(
    servers: tuple[int, ...] = (1, 2),
    clients: tuple[int, ...] = (1, 2, 4),
    rounds: int = 3,
    modes: tuple[str, ...] = ("rpc",),
) -> pd.DataFrame:
    """A whole sweep."""
    cells = [(m, s, c, r) for r in range(1, rounds + 1) for m in modes for s in servers for c in clients]
    return pd.DataFrame([row(s, c, r, mode=m) for m, s, c, r in cells])
