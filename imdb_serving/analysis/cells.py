"""From rows, one per cell and round, to cells: medians over rounds and validity.

Works on the table that `frame` makes of rows. Statistics only: sentences and figures belong to the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pandas as pd

from imdb_serving.analysis.intervals import estimate_positive
from imdb_serving.cell import FAILED, FIELDS, GRID, OK, Row

ENOUGH = 2
"""Valid rounds that a cell needs, or all in which it was measured; what noise they have is found in all cells."""

_OWN = [name for name in Row.__struct_fields__ if name not in {"cell", "figures", "sums_s", "means_us"}]


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the rows as a table: the cell's fields, the row's own, the figures, `<stage>_s` and `<stage>_us`.

    `cell` holds the cells themselves, `why` what is wrong. A stage that a row has not is NaN there.
    """
    return pd.DataFrame([_flat(row) for row in rows])


def _flat(row: Row) -> dict[str, Any]:
    return {
        **{name: getattr(row.cell, name) for name in FIELDS},
        **{name: getattr(row, name) for name in _OWN},
        "cell": row.cell,
        "why": row.why,
        **{name: _number(value) for name, value in msgspec.structs.asdict(row.figures).items()},
        **{f"{name}_s": value for name, value in row.sums_s.items()},
        **{f"{name}_us": value for name, value in row.means_us.items()},
    }


def _number(value: float | None) -> float:
    """Return a figure, NaN for none, so that a column of nothing is a column of numbers still."""
    return float("nan") if value is None else value


def of_series(rows: pd.DataFrame, series: str = GRID) -> pd.DataFrame:
    """Return the rows of one series."""
    return rows[rows["series"] == series].reset_index(drop=True)


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have figures, valid or not."""
    return rows[rows["status"] != FAILED]


def valid(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that passed every gate."""
    return rows[rows["status"] == OK]


def cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a cell that was measured at all: medians over its valid rounds, and the throughput's interval.

    `rounds` counts the valid ones, `valid` tells whether they are enough, `why` what was wrong with the others. A cell
    without a valid round has the medians of the invalid ones.
    """
    found = measured(rows)
    if found.empty:
        kept = rows.iloc[:0].drop(columns=["round", "status"])
        return kept.assign(rounds=0, valid=False, throughput_low=0.0, throughput_high=0.0).astype({"valid": bool})
    sound = found["status"] == OK
    rounds = sound.groupby(found["key"], sort=False).sum()
    shown = found[sound | (found["key"].map(rounds) == 0)]
    by_key: Any = shown.groupby("key", sort=False)
    first = found.drop_duplicates("key").set_index("key")
    fixed = first[[*FIELDS, "cell"]].assign(key=first.index)
    numbers: Any = shown.select_dtypes("number").drop(columns=[*FIELDS, "round"], errors="ignore")
    medians = numbers.groupby(shown["key"], sort=False).median()
    reasons: Any = found[~sound].groupby("key", sort=False)["why"].agg(lambda why: "; ".join(dict.fromkeys(why)))
    rates: Any = shown["throughput"].clip(lower=1e-9).groupby(shown["key"], sort=False).agg(estimate_positive)
    table: pd.DataFrame = pd.concat([fixed, medians.drop(columns="throughput").loc[fixed.index]], axis=1)
    return table.assign(
        rounds=rounds,
        valid=rounds >= rows.groupby("key", sort=False).size().clip(upper=ENOUGH).reindex(fixed.index),
        why=reasons.reindex(fixed.index).fillna(""),
        throughput=rates.map(lambda rate: rate.mean),
        throughput_low=rates.map(lambda rate: rate.low),
        throughput_high=rates.map(lambda rate: rate.high),
        stages=first["stages"],
        answers=by_key["answers"].first(),
    ).reset_index(drop=True)
