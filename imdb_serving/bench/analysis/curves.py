"""One curve of a sweep, throughput against clients: bounds, the law, and the knee. Knows cells and rows, no words."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from imdb_serving.bench.analysis import usl
from imdb_serving.bench.analysis.bounds import Bounds, bounds
from imdb_serving.bench.analysis.cells import valid

NEAR = 0.95
"""The share of the greatest throughput from which on more clients only wait longer."""


class Curve(NamedTuple):
    """What is known of a curve: its bounds, the fitted law or why there is none, and the clients at its knee."""

    bounds: Bounds
    law: usl.Law | str
    knee: int


def analyse(cells: pd.DataFrame, rows: pd.DataFrame, cores: int, wake_up_us: float = 0.0) -> Curve | None:
    """Analyse the cells of one curve with the rows behind them; None where no cell is valid."""
    sound = cells[cells["valid"].astype(bool)].sort_values("client_threads")
    if sound.empty:
        return None
    own: Any = valid(rows[rows["key"].isin(sound["key"])])
    by_count = {int(count): list(part["throughput"]) for count, part in own.groupby("client_threads")}
    enough = sound[sound["throughput"] >= NEAR * sound["throughput"].max()]
    return Curve(bounds(sound, cores, wake_up_us), usl.fit(by_count), int(enough["client_threads"].iloc[0]))
