"""Rows of a file of the user's: read as written, drawn alike each time, refused with the line that is wrong."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.errors import DataError
from imdb_serving.text.rows import Columns, Row, checksum, columns_of, draw, label_of, read, text_of


def file(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", '\ufefftext,label\n"good, ""very""\nindeed",1\r\nbad,0\n',
         [{"text": 'good, "very"\nindeed', "label": "1"}, {"text": "bad", "label": "0"}]),
        ("a.tsv", "id\ttext\n7\ta, b\n", [{"id": "7", "text": "a, b"}]),
        ("a.jsonl", '{"text": "☃", "label": 1}\n\n{"text": "b", "n": [1]}\n',
         [{"text": "☃", "label": 1}, {"text": "b", "n": [1]}]),
        ("a.txt", "one\r\n\n  two\n", [{"text": "one"}, {"text": "  two"}]),
        ("a", "x,y\n", [{"text": "x,y"}]),
        ("a.csv", "text;label\n\"a, b; c\";1\n", [{"text": "a, b; c", "label": "1"}]),
        ("a.csv", 'text,label\n"",1\n" tab\there 🎬",0\n',
         [{"text": "", "label": "1"}, {"text": " tab\there 🎬", "label": "0"}]),
        ("a.json", '[{"text": "b"}, {"text": "c"}]', [{"text": "b"}, {"text": "c"}]),
        ("a.txt", "good film | 1\r\nbad, | or so | 0\r\n",
         [{"text": "good film", "label": 1}, {"text": "bad, | or so", "label": 0}]),
        ("a.txt", "good film | 1\nno label\n", [{"text": "good film | 1"}, {"text": "no label"}]),
    ],
)  # fmt: skip
def test_each_kind_of_file_is_read(tmp_path: Path, name: str, text: str, expected: list[dict[str, object]]) -> None:
    assert read(file(tmp_path, name, text)) == expected


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", "has no rows"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.csv", "text,label\nx,1\ny\n", "line 3: expected 2 columns"),
        ("a.csv", "text\nx,1\n", "line 2: expected 1 columns"),
        ("a.csv", 'text\nfine\n"x\n', "line 3: unexpected end of data; is a quote not closed"),
        ("a.jsonl", '{"a": 1}\n[2]\n', "line 2: expected an object"),
        ("a.jsonl", '{"a": 1}\n{\n', "line 2: "),
        ("a.jsonl", "[" * 100_000, "line 1: "),
        ("a.txt", "\n \n", "has no rows"),
        ("a.txt", b"ok\n\xff", "line 2, is not UTF-8: byte 3 is 0xff; save the file as UTF-8"),
        ("a.csv", b"text\ncaf\xe9\n", "line 2, is not UTF-8"),
        ("a.csv", "text,text\nx,1\n", "line 1: two columns are called 'text'"),
        ("a.json", "[1]", "entry 1: expected an object"),
        ("a.json", "[", "a.json: "),
        ("a.csv.gz", b"\x1f\x8bgarbage", "cannot read"),
        ("a.parquet", b"PAR1 or not", "cannot read"),
        ("a.xlsx", b"PK\x03\x04rest", "is a ZIP file, as spreadsheets are"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path: Path, name: str, text: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(file(tmp_path, name, text))


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, coding: str) -> None:
    path = file(tmp_path, "a.csv", "text,label\r\nschöner Film 🎬,1\r\n".encode(coding))
    assert read(path) == [{"text": "schöner Film 🎬", "label": "1"}]


@pytest.mark.parametrize(("end", "pack"), [
    (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress),
    (".zst", lambda data: pa.Codec("zstd").compress(data, asbytes=True)),
])  # fmt: skip
def test_a_compressed_file_is_unpacked(tmp_path: Path, end: str, pack: Callable[[bytes], bytes]) -> None:
    rows = "text\n" + "".join(f"film {number}\n" for number in range(5000))
    found = read(file(tmp_path, f"a.csv{end}", pack(rows.encode())))
    assert (len(found), found[-1]) == (5000, {"text": "film 4999"})


def test_a_text_of_a_megabyte_is_read(tmp_path: Path) -> None:
    long = "a " * 500_000
    assert read(file(tmp_path, "a.csv", f'text\n"{long}"\nb\n')) == [{"text": long}, {"text": "b"}]


def test_a_parquet_file_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"review": ["a", "b"], "sentiment": ["pos", "neg"]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [{"review": "a", "sentiment": "pos"}, {"review": "b", "sentiment": "neg"}]


def test_lines_of_ids_are_ids(tmp_path: Path) -> None:
    found = read(file(tmp_path, "a.data", "3 8 233 52 0\n1 4 1\n"))
    assert [(row["words"].tolist(), row["label"]) for row in found] == [([8, 233, 52], 0), ([4], 1)]


@pytest.mark.parametrize(("row", "said", "expected"), [
    ({"text": "a", "label": 1}, (), ("text", "label")), ({"Text": "a", "n": 1}, (), ("Text", "")),
    ({"review": "a", "id": "x", "sentiment": "pos"}, (), ("review", "sentiment")),
    ({"a": "x", "b": "y"}, ("b", "a"), ("b", "a")),
])  # fmt: skip
def test_columns_are_those_said_or_those_with_a_usual_name(row: Any, said: Any, expected: Any) -> None:
    assert columns_of([Row(row)], Columns(*said), Path("f")) == expected


@pytest.mark.parametrize(("said", "words"), [
    (("sayd", ""), r"text_column: f has no column 'sayd'; did you mean 'said'\?"),
    (("said", "kind"), "label_column: f has no column 'kind'"),
    ((), "f has the columns said, other; say which has the text: text_column"),
])  # fmt: skip
def test_columns_that_are_not_there_are_told(said: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        columns_of([Row({"said": "a", "other": "b"})], Columns(*said), Path("f"))


def test_a_value_that_is_no_text_is_told_with_its_line(tmp_path: Path) -> None:
    rows = read(file(tmp_path, "a.jsonl", '{"text": "a"}\n\n{"text": null}\n'))
    with pytest.raises(DataError, match=r"a.jsonl, line 3: text is None, and no text"):
        text_of(rows[1], Columns("text"), tmp_path / "a.jsonl")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for act in (read, checksum):
        with pytest.raises(DataError, match=r"cannot read .*none.csv"):
            act(tmp_path / "none.csv")


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 3))
def test_all_rows_come_before_any_comes_again(rows: int, count: int, seed: int) -> None:
    given_rows = [{"n": number} for number in range(rows)]
    drawn = draw(given_rows, count, seed)
    assert drawn == draw(given_rows, count, seed)
    assert len(drawn) == count
    times = [drawn.count(row) for row in given_rows]
    assert max(times) - min(times) <= 1


@pytest.mark.parametrize(("row", "label"), [
    ({"label": "1"}, 1), ({}, 0), ({"label": "pos"}, 0), ({"label": None}, 0), ({"label": 2}, 2),
])  # fmt: skip
def test_a_label_is_a_number_or_none(row: dict[str, object], label: int) -> None:
    assert label_of(row) == label


def test_a_changed_file_is_another_one(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", "one\n")
    first = checksum(path)
    assert first == checksum(path)
    file(tmp_path, "a.txt", "another\n")
    assert first != checksum(path)
