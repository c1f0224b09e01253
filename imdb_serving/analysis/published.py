"""The published tables (Paddle Serving's IMDB benchmark of 2020, RPC and Flask), and what they say when analysed.

Times are seconds; every column is a sum over one client's requests, averaged over the clients. Hardware: Intel Xeon
Gold 6271 at 2.6 GHz, 48 cores. The text says that each run sends 2,500 samples.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, NamedTuple

import pandas as pd

from imdb_serving.analysis import usl

SAMPLES = 2500
HARDWARE = "Xeon Gold 6271, 48 cores"


def published_table(mode: str) -> pd.DataFrame:
    """Return a published table: `rpc` (6 server x 7 client thread counts) or `flask` (8 client thread counts)."""
    file = resources.files("imdb_serving.analysis").joinpath("published_tables", f"paddle_serving_2020_{mode}.csv")
    with resources.as_file(file) as path:
        return pd.read_csv(path)


OPS = ["op0_s", "op1_s", "op2_s"]
SLIP = 3.0
"""Times that a figure may be off the table's usual one a sample before it is a slip of the pen."""

IMDB_TEST_SET = 25_000


class Place(NamedTuple):
    """A cell of the published table."""

    server_threads: int
    client_threads: int


class Slip(NamedTuple):
    """A published figure that cannot be right: where, what it says, and what its neighbours say it should be."""

    place: Place
    column: str
    said: float
    expected: float


def best_cell(table: pd.DataFrame) -> tuple[Place, float]:
    """Return the cell of least total time, and that time in seconds."""
    row: Any = table.iloc[int(table["total_s"].to_numpy().argmin())]
    return Place(int(row["server_threads"]), int(row["client_threads"])), float(row["total_s"])


def unexplained(table: pd.DataFrame) -> pd.Series[float]:
    """Return the share of `client_infer` that lies in no op, a cell each: what was never explained."""
    return 1 - table[OPS].sum(axis=1) / table["client_infer_s"]


def slips(table: pd.DataFrame) -> list[Slip]:
    """Return the figures of single steps that are far from what they are in all other cells, by sample.

    Columns are per-client sums over a share of the samples, so a step's time by clients is the same everywhere.
    """
    found = []
    for column in ["prepro_s", *OPS, "postpro_s"]:
        by_sample = table[column] * table["client_threads"]
        usual = float(by_sample.median())
        for number, value in enumerate(by_sample):
            if value > SLIP * usual or value * SLIP < usual:
                row: Any = table.iloc[number]
                place = Place(int(row["server_threads"]), int(row["client_threads"]))
                expected = usual / place.client_threads
                found.append(Slip(place, column.removesuffix("_s"), float(row[column]), expected))
    return found


def op1_ms(table: pd.DataFrame, samples: int = SAMPLES) -> float:
    """Return the model's milliseconds per sample if each run sent this many: the median over all cells."""
    return float((table["op1_s"] * table["client_threads"]).median()) * 1000 / samples


def laws(table: pd.DataFrame, samples: int = SAMPLES) -> dict[int, usl.Law | str]:
    """Fit the Universal Scalability Law to each server-thread count: one run a cell, so its intervals are points."""
    found = {}
    for servers in sorted(set(table["server_threads"])):
        own = table[table["server_threads"] == servers]
        pairs = zip(own["client_threads"], own["total_s"], strict=True)
        found[int(servers)] = usl.fit({int(clients): [samples / float(total)] for clients, total in pairs})
    return found
