"""Rows whose noise is known: half of it the server process's, half the cell's, with rounds that drift."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from imdb_serving.cell import Cell

CLIENTS = (1, 2, 3, 4, 6, 8)


def rows_of(
    seed: int, *, servers: int = 4, rounds: int = 3, server: float = 0.03, cell: float = 0.03, drift: float = 0.0
) -> pd.DataFrame:
    """Rows of servers of one mode and engine, each with all client counts, 1,000 a second and noise of known size."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(0, drift, rounds)
    table: list[dict[str, Any]] = []
    for number in range(rounds):
        for threads in range(1, servers + 1):
            own = generator.normal(0, server)
            for clients in CLIENTS:
                made = Cell(server_threads=threads, client_threads=clients)
                off = shared[number] + own + generator.normal(0, cell)
                table.append(
                    {
                        "cell": made, "key": made.key, "round": number + 1, "status": "ok", "series": "grid",
                        "mode": "rpc", "engine": "paddle", "throughput": 1000 * math.exp(off),
                    }
                )  # fmt: skip
    return pd.DataFrame(table)
