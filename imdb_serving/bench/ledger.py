"""The ledger: the append-only record of a sweep, one JSON line a cell and round, raw samples beside it.

Notebooks and reports only read it. A row is written with one call and flushed to the disk, so that a crash can at
most cut the last line short; such a line is skipped when reading.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imdb_serving.bench.loadgen import ClientRecord
from imdb_serving.errors import DataError

SCHEMA = 1
FILE = "ledger.jsonl"
RAW = "samples"


class Ledger:
    """The ledger of one sweep folder."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is made with the first row."""
        self.folder = folder
        self.path = folder / FILE

    def append(self, row: Mapping[str, Any], records: Sequence[ClientRecord]) -> None:
        """Store the raw samples of a cell, then its row, which names them."""
        mode = row["mode"] if row["http_client"] == "keep-alive" else f"{row['mode']}-{row['http_client']}"
        cell = f"r{row['round']}-{mode}-{row['engine']}-s{row['server_threads']}-c{row['client_threads']}"
        raw = store_samples(self.folder, f"{row['run'] or 'adhoc'}-{cell}", records)
        append_row(self.path, {**row, "raw": raw})

    def rows(self) -> list[dict[str, Any]]:
        """Return all complete rows in the order written; raise `DataError` when there is no ledger."""
        return read_rows(self.path)

    def latest_run(self) -> list[dict[str, Any]]:
        """Return the rows of the newest run, the one that wrote last."""
        rows = self.rows()
        if not rows:
            raise DataError(f"{self.path} holds no complete row; run the sweep again")
        return [row for row in rows if row["run"] == rows[-1]["run"]]


def store_samples(folder: Path, name: str, records: Sequence[ClientRecord]) -> str:
    """Write the raw samples of all clients to `samples/<name>.npz` and return that path below `folder`."""
    (folder / RAW).mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / RAW / f"{name}.npz", allow_pickle=False, **_arrays(records))
    return f"{RAW}/{name}.npz"


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row as one line, on the disk when this returns."""
    line = json.dumps({"schema": SCHEMA, **row}) + "\n"
    with path.open("a+b") as stream:
        if stream.tell() and not _ends_with_newline(stream.fileno()):
            line = "\n" + line  # a crash cut the last line short: do not join this one to it
        stream.write(line.encode())
        stream.flush()
        os.fsync(stream.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return all complete rows in the order written; raise `DataError` when there is no such file."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"no ledger at {path}: {error.strerror}; run `imdb-serving sweep` first") from error
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("schema") == SCHEMA:
            rows.append(row)
    return rows


def _ends_with_newline(descriptor: int) -> bool:
    return os.pread(descriptor, 1, os.fstat(descriptor).st_size - 1) == b"\n"


def _arrays(records: Sequence[ClientRecord]) -> dict[str, np.ndarray[Any, Any]]:
    """Flatten the clients' raw samples: one row a request, with its client."""
    answered = [(client, record) for client, record in enumerate(records) if len(record.positions)]
    if not answered:
        return {"columns": np.array([], dtype=str)}
    return {
        "columns": np.array(answered[0][1].columns),
        "client": np.concatenate([np.full(len(record.positions), client) for client, record in answered]),
        "position": np.concatenate([record.positions for _, record in answered]),
        "start_ns": np.concatenate([record.starts_ns for _, record in answered]),
        "duration_ns": np.concatenate([record.durations for _, record in answered]),
    }
