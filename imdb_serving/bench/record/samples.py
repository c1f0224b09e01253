"""Raw samples: every request's stamps, one Parquet file a cell and round. Owns the files; knows no cell and no row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imdb_serving.bench.load.loadgen import ClientRecord
from imdb_serving.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "samples"


def store_samples(folder: Path, name: str, records: Sequence[ClientRecord]) -> str:
    """Write the raw samples of all clients to `samples/<name>.parquet` and return that path below `folder`.

    The file is whole or not there: it is written under another name first.
    """
    import pyarrow as pa  # noqa: PLC0415 - a tenth of a second, which not every kernel must pay
    from pyarrow import parquet  # noqa: PLC0415

    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    unfinished = place / f".{name}.part"
    parquet.write_table(pa.table(_columns(records)), unfinished, compression="zstd")
    unfinished.replace(place / f"{name}.parquet")
    return f"{FOLDER}/{name}.parquet"


def read_samples(folder: Path, raw: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the raw samples that a row names, a row a request; raise `DataError` when they are gone or damaged.

    `client` and `position` say which request it was, `start_ns` when it began, `intended_ns` (open loop) when it should
    have; `clock_bound_ns` (between hosts) is how far `send` and `reply` can be from the truth; every other column is a
    duration in nanoseconds.
    """
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    try:
        table = parquet.read_table(folder / raw, columns=list(columns) if columns else None)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"cannot read the raw samples {folder / raw}: {error}; measure the cell again") from error
    samples: pd.DataFrame = table.to_pandas()
    return samples


def _columns(records: Sequence[ClientRecord]) -> dict[str, NDArray[np.int64]]:
    """Flatten the clients' raw samples, a row a request; no column at all when none was answered."""
    answered = [(client, record) for client, record in enumerate(records) if len(record.positions)]
    if not answered:
        return {}
    columns: dict[str, NDArray[np.int64]] = {
        "client": np.concatenate([np.full(len(record.positions), client) for client, record in answered]),
        "position": np.concatenate([record.positions for _, record in answered]),
        "start_ns": np.concatenate([record.starts_ns for _, record in answered]),
    }
    if all(len(record.intended_ns) for _, record in answered):
        columns["intended_ns"] = np.concatenate([record.intended_ns for _, record in answered])
    if all(len(record.clock_bounds_ns) for _, record in answered):
        columns["clock_bound_ns"] = np.concatenate([record.clock_bounds_ns for _, record in answered])
    durations = np.concatenate([record.durations for _, record in answered])
    return columns | {f"{name}_ns": durations[:, number] for number, name in enumerate(answered[0][1].columns)}
