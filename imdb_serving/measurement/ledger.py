"""The ledger: the append-only record of a sweep, one JSON line per cell and round, raw samples in Parquet files.

Also the folder of a sweep, the name of a run, and the lock that lets one process at a time measure in a folder.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from imdb_serving.cell import FAILED, SCHEMA, Row
from imdb_serving.config import at_home, check_output, project_root, whole_file
from imdb_serving.errors import DataError
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.measurement.parameters import GridParams, LadderParams

if TYPE_CHECKING:
    import pandas as pd


def outputs_folder(params: GridParams | LadderParams) -> Path:
    """Return the sweep's folder below the outputs folder."""
    outputs = at_home(params.outputs) if params.outputs else project_root() / "outputs"
    return check_output(outputs / params.sweep)


def new_run() -> str:
    """Return a name that no other run has: the time, to the microsecond."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")


@contextmanager
def exclusive(folder: Path, name: str, wait: float, what: str) -> Iterator[None]:
    """Hold a folder's lock `name` for the block; wait up to `wait` seconds for it.

    Raises `DataError`, which says `what` is at work there, when another process still holds it then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{name}.lock", timeout=wait, poll_interval=0.2)
    try:
        lock.acquire()
    except Timeout as error:
        raise DataError(f"{what} is at work in {folder}; wait for it, or write elsewhere") from error
    try:
        yield
    finally:
        lock.release()


FOLDER = "samples"


def store_samples(folder: Path, name: str, records: Sequence[ClientRecord]) -> str:
    """Write the raw samples of all clients to `samples/<name>.parquet` and return that path below `folder`.

    The file is whole or not there: it is written under another name first.
    """
    import pyarrow as pa  # noqa: PLC0415 - a tenth of a second, which not every kernel must pay
    from pyarrow import parquet  # noqa: PLC0415

    with whole_file(folder / FOLDER / f"{name}.parquet") as unfinished:
        parquet.write_table(pa.table(_columns(records)), unfinished, compression="zstd")
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


FILE = "ledger.jsonl"

log = logging.getLogger(__name__)


class _Schema(msgspec.Struct):
    """The fields that rows of every version have."""

    schema: int = 0


class Contents(NamedTuple):
    """What a ledger holds: its rows in the order written, and in words every line that could not be used."""

    rows: list[Row]
    skipped: list[str]


class Ledger:
    """The ledger of one sweep folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE
        self._read: tuple[tuple[int, int], Contents] = (0, 0), Contents([], [])

    def append(self, row: Row, records: Sequence[ClientRecord]) -> Row:
        """Store the raw samples of a cell, then its row, which names them; returns the row as stored."""
        name = f"{row.run or 'adhoc'}-r{row.round}-{row.cell.slug}"
        row = msgspec.structs.replace(row, raw=store_samples(self.folder, name, records))
        append_line(self.path, msgspec.json.encode(row))
        return row

    def read(self) -> Contents:
        """Return all rows, and the lines that cannot be read; raise `DataError` when there is no ledger.

        The file is parsed again only when it has changed.
        """
        try:
            facts = self.path.stat()
        except OSError as error:
            raise DataError(f"no ledger at {self.path}: {error.strerror}; run `imdb-serving sweep` first") from error
        state = facts.st_size, facts.st_mtime_ns
        if self._read[0] != state:
            self._read = state, self._parse()
        return self._read[1]

    def _parse(self) -> Contents:
        rows, skipped = [], []
        for number, line in _lines(self.path):
            try:
                rows.append(msgspec.json.decode(line, type=Row))
            except msgspec.MsgspecError as error:
                skipped.append(f"{FILE}, line {number}: {_why_not(line, error)}")
        return Contents([row for row in rows if row.schema == SCHEMA], skipped)

    def rows(self) -> list[Row]:
        """Return all rows in the order written; an empty list before the first."""
        return self.read().rows if self.path.is_file() else []

    def done(self, run: str) -> dict[tuple[str, int], Row]:
        """Return what a run has measured, by key and round; a cell that failed is not done."""
        return {(row.key, row.round): row for row in self.rows() if row.run == run and row.status != FAILED}

    def latest_run(self) -> list[Row]:
        """Return the rows of the newest run, the one that wrote last, each cell and round once."""
        rows = self.read().rows
        if not rows:
            raise DataError(f"{self.path} holds no complete row; run the sweep again")
        return newest(row for row in rows if row.run == rows[-1].run)


def newest(rows: Iterable[Row]) -> list[Row]:
    """Return the rows, of each run, key and round one: a failed cell may have been tried again."""
    last: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        place = (row.run, row.key, row.round)
        if place in last and last[place].status != FAILED and row.status == FAILED:
            continue  # what was measured stays, whatever is tried again
        last.pop(place, None)
        last[place] = row
    return list(last.values())


def append_line(path: Path, line: bytes) -> None:
    """Append a line, on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # on a cluster several runs of a sweep write at once
        # A crash cut the last line short: do not join this one to it.
        cut = b"\n" if stream.tell() and not _ends_with_newline(stream.fileno()) else b""
        stream.write(cut + line + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _lines(path: Path) -> list[tuple[int, bytes]]:
    """Return the lines that are not empty, with their numbers."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"no ledger at {path}: {error.strerror}; run `imdb-serving sweep` first") from error
    return [(number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]


def _why_not(line: bytes, error: Exception) -> str:
    """Return why a line is not a row of this version."""
    try:
        schema = msgspec.json.decode(line, type=_Schema).schema
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "cut short, or no row at all"
    if schema != SCHEMA:
        return f"a row of schema {schema}; this version reads {SCHEMA}"
    return f"damaged: {error}"


def _ends_with_newline(descriptor: int) -> bool:
    return os.pread(descriptor, 1, os.fstat(descriptor).st_size - 1) == b"\n"
