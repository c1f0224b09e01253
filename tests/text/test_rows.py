"""Rows of a file of the user's: read as written, drawn alike each time, refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.errors import DataError
from imdb_serving.text.rows import checksum, draw, label_of, read


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
        ("a.csv", 'text\n"x\n', "unexpected end of data"),
        ("a.jsonl", '{"a": 1}\n[2]\n', "line 2: expected an object"),
        ("a.jsonl", '{"a": 1}\n{\n', "line 2: "),
        ("a.jsonl", "[" * 100_000, "line 1: "),
        ("a.txt", "\n \n", "has no rows"),
        ("a.txt", b"ok\n\xff", "not UTF-8: byte 3 is 0xff"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path: Path, name: str, text: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(file(tmp_path, name, text))


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
