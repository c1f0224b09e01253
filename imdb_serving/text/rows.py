"""Rows of a file of the user's, and the texts and labels in them. Knows no review and no model.

CSV with a head, JSON, JSON lines, Parquet, a text a line, or the two published formats; compressed as well.
"""

from __future__ import annotations

import bz2
import csv
import functools
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from imdb_serving.config import digest_of
from imdb_serving.errors import DataError, did_you_mean
from imdb_serving.text import formats
from imdb_serving.text.formats import Line, LineFormat, has_label, parse
from imdb_serving.text.sampling import sample_by_length

MAX_BYTES = 2 << 30
"""The most that a file may hold, unpacked."""

TEXT_COLUMNS = ("text", "review", "sentence", "content", "comment", "body", "message", "document")
LABEL_COLUMNS = ("label", "labels", "sentiment", "class", "target", "category")
DELIMITERS = (",", ";", "\t", "|")


class Row(dict[str, Any]):
    """A row by its columns' names. `line` is where it begins in the file; in a Parquet file its number."""

    line = 0

    @classmethod
    def at(cls, line: int, values: dict[str, Any]) -> Row:
        """Return a row of values."""
        row = cls(values)
        row.line = line
        return row


class Columns(NamedTuple):
    """Which columns hold the text and the label; an empty name is one that was not said, or that is not there."""

    text: str = ""
    label: str = ""


class TextFile(NamedTuple):
    """A file of texts, which columns of it were named, and the digest of its content."""

    path: Path
    columns: Columns
    checksum: str


def read(path: Path) -> list[Row]:
    """Return a file's rows, blank ones left out; raise `DataError` for a file that is missing, empty or malformed."""
    kind = _kind(path)
    if kind == ".parquet":
        found = list(_parquet(path))
    else:
        data = _unpacked(path)
        try:
            text = formats.decode(data)
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise DataError(
                f"data: {path}, line {line}, is not UTF-8: byte {error.start} is {error.object[error.start]:#x}; "
                "save the file as UTF-8"
            ) from None
        found = list(_KINDS.get(kind, _lines)(text, path))
    if not found:
        raise DataError(f"data: {path} has no rows")
    return found


def _kind(path: Path) -> str:
    """Return the end of a file's name that says what it holds, before that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kept = [suffix for suffix in suffixes if suffix not in PACKED]
    return kept[-1] if kept else ""


def _zstd(file: Any) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - takes a tenth of a second, and few files are such

    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")


PACKED: dict[str, tuple[bytes, Callable[[Any], Any]]] = {
    ".gz": (b"\x1f\x8b", gzip.open),
    ".bz2": (b"BZh", bz2.BZ2File),
    ".xz": (b"\xfd7zXZ\x00", lzma.LZMAFile),
    ".zst": (b"\x28\xb5\x2f\xfd", _zstd),
}  # fmt: skip
"""What is unpacked: how such a file begins, and what reads it."""


def _unpacked(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            begin = file.read(6)
            file.seek(0)
            if begin.startswith(b"PK\x03\x04"):
                raise DataError(f"data: {path} is a ZIP file, as spreadsheets are; unpack it, or save it as CSV")
            opener = next((one for mark, one in PACKED.values() if begin.startswith(mark)), None)
            source = opener(file) if opener else file
            data: bytes = source.read(MAX_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
        raise DataError(f"data: cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise DataError(f"data: {path} holds more than {MAX_BYTES >> 30} GiB")
    return bytes(data)


def _csv(text: str, path: Path) -> Iterator[Row]:
    limit = csv.field_size_limit(MAX_BYTES)
    head = text.partition("\n")[0]
    delimiter = "\t" if _kind(path) == ".tsv" else max(DELIMITERS, key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begin = 1
    try:
        _check_head(reader.fieldnames or [], path)
        begin = reader.line_num + 1
        for row in reader:
            if None in row or None in row.values():
                columns = len(reader.fieldnames or [])
                raise DataError(f"data: {path}, line {reader.line_num}: expected {columns} columns, as its head has")
            yield Row.at(begin, row)
            begin = reader.line_num + 1
    except csv.Error as error:
        end = "; is a quote not closed?" if "end of data" in str(error) else ""
        raise DataError(f"data: {path}, line {begin}: {error}{end}") from None
    finally:
        csv.field_size_limit(limit)


def _check_head(names: Sequence[str], path: Path) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise DataError(f"data: {path}, line 1: two columns are called {twice!r}")


def _json(text: str, path: Path) -> Iterator[Row]:
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"data: {path}: {error}") from None
        for number, row in enumerate(rows, start=1):
            yield _object(row, f"{path}, entry {number}", number)
        return
    yield from _json_lines(text, path)


def _json_lines(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"data: {path}, line {number}: {error}") from None
        yield _object(row, f"{path}, line {number}", number)


def _object(row: Any, place: str, number: int) -> Row:
    if not isinstance(row, dict):
        raise DataError(f'data: {place}: expected an object, as {{"text": "..."}}')
    return Row.at(number, row)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa  # noqa: PLC0415 - as above
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"data: cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    for number, row in enumerate(table.to_pylist(), start=1):
        yield Row.at(number, row)


def _lines(text: str, path: Path) -> Iterator[Row]:
    """Yield lines in one of the published formats, if all are; else a text a line."""
    numbered = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    lines = [Line(str(path), number, content) for number, content in numbered]
    kind: LineFormat = "text"
    if lines and not all(map(has_label, lines)):
        if not all(formats.looks_like_ids(line) for line in lines):
            yield from (Row.at(number, {"text": content}) for number, content in numbered)
            return
        kind = "ids"
    for line in lines:
        example = parse(line, kind)
        main = {"text": example.text} if example.words is None else {"words": example.words}
        yield Row.at(line.number, {**main, "label": example.label})


_KINDS: dict[str, Callable[[str, Path], Iterator[Row]]] = {
    ".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json,
}  # fmt: skip


def columns_of(rows: Sequence[Row], said: Columns, path: Path) -> Columns:
    """Return which columns hold texts and labels: those said, else those with a usual name.

    Raises `DataError` when one that was said is not there, and when none can be told to hold the text.
    """
    there = list(rows[0])
    for name, what in ((said.text, "text_column"), (said.label, "label_column")):
        if name and name not in there:
            raise DataError(f"{what}: {path} has no column {name!r}{did_you_mean(name, there)}")
    text = said.text or next((name for name in TEXT_COLUMNS if name in there), "")
    if not text and "words" not in there:
        texts = [name for name in there if isinstance(rows[0][name], str)]
        if len(texts) != 1:
            raise DataError(f"data: {path} has the columns {', '.join(there)}; say which has the text: text_column")
        text = texts[0]
    return Columns(text, said.label or next((name for name in LABEL_COLUMNS if name in there and name != text), ""))


def text_of(row: Row, columns: Columns, path: Path) -> str:
    """Return a row's text; raise `DataError` where it is none."""
    text = row.get(columns.text)
    if not isinstance(text, str):
        raise DataError(f"data: {path}, line {row.line}: {columns.text} is {text!r:.60}, and no text")
    return text


def draw(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Return `count` rows, chosen by the seed so that the mix of lengths is kept; more are whole passes over all."""
    lengths = [sum(len(value) for value in row.values() if isinstance(value, str)) for row in rows]
    return [rows[place] for place in sample_by_length(lengths, count, seed)]


def label_of(row: Mapping[str, Any], column: str = "label") -> int:
    """Return a row's label where it has one that is a number, else 0."""
    try:
        return int(row.get(column, 0))
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
    return digest_of(path)
