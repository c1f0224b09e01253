"""Rows of a file of the user's: CSV with a head, JSON lines, or a text a line. Knows no review and no model."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imdb_serving.errors import DataError

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Return a file's rows, blank ones left out; raise `DataError` for a file that is missing, empty or malformed."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"data: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"data: {path} is not UTF-8: byte {error.start} is {error.object[error.start]:#x}") from None
    kinds = {".csv": _csv, ".tsv": _csv, ".jsonl": _json, ".ndjson": _json}
    found = kinds.get(path.suffix.lower(), _lines)(text, path)
    if not found:
        raise DataError(f"data: {path} has no rows")
    return found


def _csv(text: str, path: Path) -> list[Row]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[Row] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                columns = len(reader.fieldnames or [])
                raise DataError(f"data: {path}, line {reader.line_num}: expected {columns} columns, as its head has")
            found.append(row)
    except csv.Error as error:
        raise DataError(f"data: {path}, line {reader.line_num}: {error}") from None
    return found


def _json(text: str, path: Path) -> list[Row]:
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"data: {path}, line {number}: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f'data: {path}, line {number}: expected an object, as {{"text": "..."}}')
        found.append(row)
    return found


def _lines(text: str, _path: Path) -> list[Row]:
    return [{"text": line.rstrip("\r")} for line in text.split("\n") if line.strip()]


def draw(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Return `count` rows in an order of the seed's; fewer are repeated in that order."""
    order = list(rows)
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    return [order[place % len(order)] for place in range(count)]


def label_of(row: Row) -> int:
    """Return a row's label where it has one that is a number, else 0."""
    try:
        return int(row.get("label", 0))
    except (TypeError, ValueError, OverflowError):
        return 0


def checksum(path: Path) -> str:
    """Return the digest of a file's content; raise `DataError` when it cannot be read."""
    try:
        place = path.stat()
        return _checksum(path, place.st_mtime_ns, place.st_size)
    except OSError as error:
        raise DataError(f"data: cannot read {path}: {error.strerror}") from error


@functools.lru_cache(maxsize=16)
def _checksum(path: Path, _changed: int, _size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
