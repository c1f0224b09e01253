"""An answer that arrives in one piece is read as httptools reads it, or not at all."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imdb_serving.clients.http_connection import MOST_HEADS, AnswerParser, PlainAnswers

OK = b"HTTP/1.1 200 OK\r\nServer: one\r\nContent-Length: 2\r\n\r\n{}"

PLAIN = [
    OK,
    b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length:2\r\nServer-Timing: queue;dur=1\r\n\r\n{}",
    b"HTTP/1.1 500 \r\nCONTENT-LENGTH: 3\r\n\r\n\r\n\r",
]
OTHER = [
    OK[:-1],
    OK + b"x",
    OK.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
    OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    OK.replace(b"\r\n\r\n", b"\r\ncontent-length: 2\r\n\r\n"),
    OK.replace(b"\r\n\r\n", b"\r\n folded: 2\r\n\r\n"),
    OK.replace(b"one", b"o\xfcne"),
    OK.replace(b"one", b"o\nne"),
    OK.replace(b": 2", b": +2"),
    OK.replace(b"1.1", b"1.0"),
    OK.replace(b"200", b"204"),
    OK.replace(b"200", b"101"),
    OK.replace(b"\r\n\r\n", b"\r\nServer-Timing: a\r\nConnection: close\r\n\r\n"),
    b"HTTP/1.1 200 OK\r\nServer-Timing: a\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    b"hello",
    b"",
]


@pytest.mark.parametrize("data", PLAIN)
def test_a_plain_answer_is_read_as_httptools_reads_it(data: bytes) -> None:
    parser, plain = AnswerParser(), PlainAnswers()
    parser.feed(data)
    for _ in range(2):  # the second time, its head is known
        answer = plain.read(data)
        assert answer is not None
        assert parser.answer is not None
        assert (answer.status, answer.body, answer.keep) == (parser.answer.status, parser.answer.body, True)
        for name in (b"server", b"content-length", b"server-timing", b"location"):
            assert answer.header(name) == parser.answer.header(name)


@pytest.mark.parametrize("data", OTHER)
def test_anything_else_is_left_to_httptools(data: bytes) -> None:
    plain = PlainAnswers()
    assert plain.read(OK) is not None
    assert plain.read(data) is None


@given(st.lists(st.sampled_from([*PLAIN, *OTHER]), max_size=4), st.binary(max_size=4), st.integers(0, 80))
@example([OK], b"\r\n", 20)
def test_whatever_comes_a_plain_answer_is_httptools_answer(before: list[bytes], junk: bytes, place: int) -> None:
    plain = PlainAnswers()
    for data in [*before, OK[:place] + junk + OK[place:]]:
        answer, parser = plain.read(data), AnswerParser()
        if answer is None:
            continue
        try:
            parser.feed(data)
        except httptools.HttpParserError:
            continue  # a line without a colon: what it says is nothing to us
        assert parser.answer is not None
        assert (answer.status, answer.body) == (parser.answer.status, parser.answer.body)


def test_heads_that_never_repeat_do_not_gather() -> None:
    plain = PlainAnswers()
    for number in range(3 * MOST_HEADS):
        assert plain.read(OK.replace(b"one", b"%d" % number)) is not None
    assert len(plain._heads) <= MOST_HEADS
