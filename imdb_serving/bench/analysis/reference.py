"""The published tables: Paddle Serving's IMDB benchmark of 2020, RPC and Flask.

Times are seconds; every column is a sum over one client's requests, averaged over the clients. Hardware: Intel Xeon
Gold 6271 at 2.6 GHz, 48 cores. The text says that each run sends 2,500 samples.
"""

from __future__ import annotations

from importlib import resources

import pandas as pd

SAMPLES = 2500
HARDWARE = "Xeon Gold 6271, 48 cores"


def published(mode: str) -> pd.DataFrame:
    """Return a published table: `rpc` (6 server x 7 client thread counts) or `flask` (8 client thread counts)."""
    file = resources.files("imdb_serving.bench.analysis").joinpath("published", f"paddle_serving_2020_{mode}.csv")
    with resources.as_file(file) as path:
        return pd.read_csv(path)
