"""The two published line formats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.errors import DataError
from imdb_serving.text.formats import (
    EXPECTED,
    UNLABELLED,
    Example,
    Line,
    LineFormat,
    detect_format,
    format_ids,
    format_text,
    parse,
    read_lines,
)
from imdb_serving.text.reviews import tokenise

LABELS = st.sampled_from([0, 1])


def read(content: bytes, kind: LineFormat) -> list[Example]:
    return [parse(line, kind) for line in read_lines(content, "test.data")]


def read_one(line: str, kind: LineFormat) -> Example:
    (example,) = read(f"{line}\n".encode(), kind)
    return example


def ids_of(example: Example) -> list[int]:
    assert example.words is not None
    assert example.words.dtype == "int64"
    return example.words.tolist()


@given(st.lists(st.integers(0, 10**18 - 1), max_size=50), LABELS)
def test_word_ids_come_back_from_their_line(words: list[int], label: int) -> None:
    example = read_one(format_ids(words, label), "ids")
    assert (ids_of(example), example.label, example.text) == (words, label, None)


@given(st.text(), LABELS)
def test_a_text_comes_back_from_its_line_word_by_word(text: str, label: int) -> None:
    example = read_one(format_text(text, label), "text")
    assert example.text is not None
    assert (tokenise(example.text), example.label, example.words) == (tokenise(text), label, None)


@given(st.text(alphabet=st.characters(codec="utf-8", categories=["L", "N", "P", "S"])), LABELS)
def test_a_text_without_white_space_comes_back_exactly(text: str, label: int) -> None:
    assert read_one(format_text(text, label), "text").text == text


def test_the_published_forms_are_written() -> None:
    assert format_ids([8, 233, 52], 1) == "3 8 233 52 1"
    assert format_ids([], 0) == "0 0"
    assert format_text("Great film!", 1) == "Great film! | 1"


def test_line_breaks_inside_a_review_become_spaces() -> None:
    assert format_text("one\ntwo\r\nthree\x85four\u2028five", 0) == "one two three four five | 0"


def test_an_odd_separator_inside_a_review_does_not_end_its_line() -> None:
    first, second = read("one\x85two\u2028three | 1\nnext | 0\n".encode(), "text")
    assert (first.text, first.label) == ("one\x85two\u2028three", 1)
    assert (second.text, second.label) == ("next", 0)


def test_a_bar_inside_the_text_is_fine() -> None:
    example = read_one("either | or | both | 1", "text")
    assert (example.text, example.label) == ("either | or | both", 1)


def test_an_empty_review_is_fine_in_both_formats() -> None:
    assert ids_of(read_one("0 1", "ids")) == []
    assert read_one(" | 1", "text").text == ""


def test_crlf_and_blank_lines_are_fine() -> None:
    examples = read(b"\r\n2 5 6 1\r\n   \r\n\r\n1 7 0\r\n\n", "ids")
    assert [(ids_of(example), example.label) for example in examples] == [([5, 6], 1), ([7], 0)]
    texts = read(b"good | 1\r\n\r\nbad | 0", "text")
    assert [(example.text, example.label) for example in texts] == [("good", 1), ("bad", 0)]


def test_blank_lines_count_in_the_line_number() -> None:
    assert [line.number for line in read_lines(b"\n0 1\r\n\r\n0 0", "file")] == [2, 4]


def test_tabs_and_further_spaces_separate_ids() -> None:
    assert ids_of(read_one("  2\t5   6 1 ", "ids")) == [5, 6]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("3 1 2 3 0", "ids"),
        ("fine | 1", "text"),
        ("1 2 0 | 1", "text"),
        ("7", "ids"),
        ("broken\n1 5 0", "ids"),
        ("a | b\nfine | 1", "text"),
    ],
)
def test_the_format_is_told_by_the_bar(content: str, kind: LineFormat) -> None:
    assert detect_format(read_lines(content.encode(), "file")) == kind


def refusal(line: bytes, kind: LineFormat) -> str:
    """Return the message with which a line is refused after a good one and a blank one."""
    good = b"0 1\n\n" if kind == "ids" else b"fine | 1\n\n"
    with pytest.raises(DataError) as caught:
        read(good + line + b"\n", kind)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "kind", "why"),
    [
        pytest.param(b"3 1 2 0", "ids", "2 word ids where N says 3", id="too few ids"),
        pytest.param(b"1 1 2 0", "ids", "2 word ids where N says 1", id="too many ids"),
        pytest.param(b"7", "ids", "0 word ids where N says 7", id="nothing but a count"),
        pytest.param(b"2 1 -2 0", "ids", "'-2'", id="negative id"),
        pytest.param(b"-1 0", "ids", "'-1'", id="negative count"),
        pytest.param(b"2 1 two 0", "ids", "'two'", id="no number"),
        pytest.param(b"2 1 2.0 0", "ids", "'2.0'", id="fraction"),
        pytest.param(b"1 0x1f 0", "ids", "'0x1f'", id="hexadecimal"),
        pytest.param(b"1 1_000 0", "ids", "'1_000'", id="underscore"),
        pytest.param("1 \u0663 0".encode(), "ids", "'\u0663'", id="digit of another script"),
        pytest.param(b"1 9223372036854775808 0", "ids", "'9223372036854775808'", id="above int64"),
        pytest.param(b"1 1 2", "ids", "label is '2'", id="label 2 of ids"),
        pytest.param(b"1 \xff\xfe 0", "ids", "is not a whole number", id="ids with invalid UTF-8"),
        pytest.param(b"a review | 1", "ids", "'a'", id="text where ids should be"),
        pytest.param(b"a review without a label", "text", "no bar", id="missing bar"),
        pytest.param(b"2 1 2 0", "text", "no bar", id="ids where text should be"),
        pytest.param(b"fine | 2", "text", "label is '2'", id="label 2 of text"),
        pytest.param(b"fine | -1", "text", "label is '-1'", id="label -1"),
        pytest.param(b"fine | ", "text", "label is ''", id="no label"),
        pytest.param(b"fine | positive", "text", "label is 'positive'", id="label in words"),
        pytest.param(b"fine | 1 0", "text", "label is '1 0'", id="two labels"),
        pytest.param(b"caf\xe9 | 1", "text", "not valid UTF-8", id="text with invalid UTF-8"),
        pytest.param(b"fine | \xff", "text", "label is", id="label with invalid UTF-8"),
    ],
)
def test_a_malformed_line_is_refused_with_file_line_and_expectation(line: bytes, kind: LineFormat, why: str) -> None:
    message = refusal(line, kind)
    assert message.startswith("test.data:3: ")
    assert why in message
    assert f"expected {EXPECTED[kind]}" in message
    message.encode()  # no lone surrogate: a terminal can show it


@pytest.mark.parametrize("separator", ["\u00a0", "\x85", "\u3000", "\x1c"])
def test_ids_apart_by_other_than_ascii_space_are_refused(separator: str) -> None:
    with pytest.raises(DataError, match=r"file:3: .*expected"):
        parse(Line("file", 3, f"2 1{separator}2 0"), "ids")


def test_one_invalid_line_does_not_spoil_those_before_it() -> None:
    lines = iter(read_lines(b"fine | 1\n\xff | 1\n", "file"))
    assert parse(next(lines), "text").text == "fine"
    with pytest.raises(DataError, match=r"file:2: "):
        parse(next(lines), "text")


@given(st.text(alphabet=st.sampled_from("01 29-.x|\t"), max_size=30), st.sampled_from(["ids", "text"]))
def test_any_line_is_read_or_refused(content: str, kind: LineFormat) -> None:
    line = Line("file", 1, content)
    try:
        label = parse(line, kind).label if content.strip() else 0
    except DataError:
        return
    assert label in {0, 1}
    assert not content.strip() or line.label == label


def test_the_label_behind_many_digits_is_read_without_a_look_at_each() -> None:
    digits = "7" * 500_000  # a pattern that is tried at each of them would take hours
    assert Line("file", 1, f"{digits} x | 1 \n").label == 1
    assert Line("file", 1, f"{digits} x | 12", classes=20).label == 12
    assert Line("file", 1, digits, classes=0).label == UNLABELLED
