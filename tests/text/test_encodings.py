"""Files and bodies as other people's editors write them give the answers of plain UTF-8 with LF."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from imdb_serving.errors import DataError
from imdb_serving.keys import read_token
from imdb_serving.measurement.parameters import load_sweep
from imdb_serving.model.conf import load_conf
from imdb_serving.text import formats
from imdb_serving.text.formats import detect_format, has_label, parse, read_lines
from imdb_serving.text.reviews import Vocabulary, load, tokenise

ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}
MARKED = {
    "utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE,
}  # fmt: skip
LINES = ["Terrible boring film. | 0", "Café, un très bon film ¡olé! | 1", "a\x0bb\x85c\u2028d | 1"]

in_every_encoding = pytest.mark.parametrize("encoding", [*MARKED, "plain"])


def written(text: str, encoding: str) -> bytes:
    return text.encode() if encoding == "plain" else MARKED[encoding] + text.encode(encoding)


@in_every_encoding
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("last", [True, False], ids=["ended", "not ended"])
def test_a_data_file_is_read_as_editors_write_it(encoding: str, end: str, last: bool) -> None:
    text = ENDS[end].join(LINES) + (ENDS[end] if last else "")
    found = read_lines(written(text, encoding), "file")
    assert [line.content for line in found] == LINES
    assert [line.number for line in found] == [1, 2, 3]


@in_every_encoding
def test_a_file_of_ids_keeps_its_first_line(encoding: str) -> None:
    found = read_lines(written("2 5 6 1\r1 7 0\r", encoding), "file")
    assert detect_format(found) == "ids"
    examples = [parse(line, "ids") for line in found]
    assert [(list(example.words), example.label) for example in examples if example.words is not None] == [
        ([5, 6], 1),
        ([7], 0),
    ]


def test_joined_files_have_marks_between_them() -> None:
    parts = [written(f"{line}\n", "utf-8") for line in LINES]
    assert [line.content for line in read_lines(b"".join(parts), "file")] == LINES


@pytest.mark.parametrize("text", ["\ufeffTerrible boring film.", "Terrible \ufeffboring film."])
def test_a_mark_in_a_text_is_no_word_and_no_part_of_one(text: str) -> None:
    assert tokenise(text) == ["terrible", "boring", "film", "."]


def test_a_file_that_is_not_what_its_mark_says_is_refused() -> None:
    with pytest.raises(DataError, match="utf-16"):
        read_lines(codecs.BOM_UTF16_LE + b"\x00\xd8\x00", "file")


@in_every_encoding
def test_other_files_are_read_so_too(encoding: str, tmp_path: Path) -> None:
    vocabulary = tmp_path / "imdb.vocab"
    vocabulary.write_bytes(written("the\r\ncafé\r\n", encoding))
    assert Vocabulary.load(vocabulary).words == ("the", "café")
    conf = tmp_path / "inference.conf"
    feed, fetch = "feed_var { name: 'words' alias_name: 'words' }", "fetch_var { name: 'p' alias_name: 'prediction' }"
    conf.write_bytes(written(f"{feed}\r\n{fetch}\r\n", encoding))
    assert load_conf(conf).fetch_names == ("prediction",)
    sweep = tmp_path / "sweep.yaml"
    sweep.write_bytes(written("engine: simulated\r\nserver_threads: [1]\r\n", encoding))
    assert load_sweep(sweep).engine == "simulated"
    for part in ("train", "test"):
        for name in ("pos", "neg"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "1_7.txt").write_bytes(written("très bon", encoding))
    assert {example.text for example in load(f"aclimdb:{tmp_path}").train} == {"très bon"}


def test_a_token_may_begin_with_a_mark(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_bytes(codecs.BOM_UTF8 + b"0123456789abcdef0123\r\n")
    token.chmod(0o600)
    assert read_token(token) == "0123456789abcdef0123"


@pytest.mark.parametrize(
    "content",
    [
        "text,label\nfine,1\n", '"a fine film",1\n', "id\ttext\n1\tfine\n", "text;label\n", "a review\nanother\n",
        '{"text": "a | b", "label": 1}\n', '[{"text": "fine"}]\n', "1,a fine film,0\n", '\ufeff{"text": "fine"}',
    ],
)  # fmt: skip
def test_another_format_is_refused_with_those_that_there_are(content: str) -> None:
    with pytest.raises(DataError, match="as CSV and JSON are not") as caught:
        detect_format(read_lines(content.encode(), "file"))
    assert "'N id1 ... idN label'" in str(caught.value)
    assert "'text | label'" in str(caught.value)


@pytest.mark.parametrize("line", ["fine | 0", "a | b | 1 "])
def test_a_label_is_seen(line: str) -> None:
    assert has_label(read_lines(line.encode(), "file")[0])


@pytest.mark.parametrize("line", ["fine", "fine | 2", "a | b"])
def test_a_missing_one_too(line: str) -> None:
    assert not has_label(read_lines(line.encode(), "file")[0])


def test_what_is_not_marked_is_utf_8() -> None:
    assert formats.decode(b"caf\xc3\xa9") == "café"
    with pytest.raises(UnicodeDecodeError):
        formats.decode(b"caf\xe9")
