"""What the client's fast path takes is what the general one makes of it; the rest it leaves alone."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.clients import rpc
from imdb_serving.errors import BadRequest, RemoteFailure
from imdb_serving.messages import Array, Reply, Request, Tensor
from imdb_serving.protocol import wire
from imdb_serving.protocol.framing import MAX_HEADER_BYTES, unpack_whole
from imdb_serving.protocol.headers import Predict
from imdb_serving.timing import Stage

IDS = st.integers(0, (1 << 63) - 1)
WORDS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=8)
NAMES = st.text(max_size=12)
STAGES = [Stage("queue", 1, 2), Stage("op0", 2, 1 << 40)]


def review(words: list[int], name: str = "words", fetch: tuple[str, ...] = ("prediction",)) -> Request:
    values = np.array(words, np.int64)
    return Request({name: Tensor(values, values.shape)}, fetch, 1)


def as_server_reads(piece: bytes) -> tuple[Predict, Request]:
    opened = unpack_whole(piece)
    assert opened is not None
    header = wire.read_question(opened[0])
    assert isinstance(header, Predict)
    return header, wire.decode_request(header, opened[1])


@given(IDS, WORDS, NAMES, st.lists(NAMES, min_size=1, max_size=3), st.integers(1, 86_400_000).map(float))
def test_a_server_reads_the_same_from_the_fast_path_as_from_the_general_one(
    number: int, words: list[int], name: str, fetch: list[str], deadline_ms: float
) -> None:
    request = review(words, name, tuple(fetch))
    short = rpc.encode_request(request, number, deadline_ms)
    assert short is not None
    long = wire.encode_request(request, number, deadline_ms)
    (header, read), (expected_header, expected) = as_server_reads(short), as_server_reads(long)
    assert header == expected_header
    assert read.fetch == expected.fetch
    assert read.feed[name].values.tolist() == words


def test_a_deadline_that_looks_like_a_number_to_be_filled_in_goes_the_general_way() -> None:
    (deadline_ms,) = struct.unpack(">d", bytes.fromhex("40ffffffff000000"))
    assert rpc.encode_request(review([1]), 7, deadline_ms) is None


def test_words_that_do_not_lie_together_are_sent_as_they_read() -> None:
    every_second = np.arange(10, dtype=np.int64)[::2]
    piece = rpc.encode_request(Request({"words": Tensor(every_second, (5,))}, ("prediction",), 1), 7, 500.0)
    assert piece is not None
    assert as_server_reads(piece)[1].feed["words"].values.tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    "request_",
    [
        Request({"words": Tensor(np.arange(4), (1, 3))}, ("prediction",), 2),
        Request({"words": Tensor(np.arange(4), (4,))}, ("prediction",), 2),
        Request({"words": Tensor(np.arange(4), (3,))}, ("prediction",), 1),
        Request({"words": Tensor(np.arange(4, dtype=np.int32), (4,))}, ("prediction",), 1),
        Request({"words": Tensor(np.frombuffer(b"fine", np.uint8), (4,), text=True)}, ("prediction",), 1),
        Request({"words": Tensor(np.arange(4), (4,)), "label": Tensor(np.array([1]))}, ("acc",), 1),
        Request({"label": Tensor(np.array([1]))}, ("acc",), 1),
        Request({}, ("prediction",), 1),
        Request({"words": Tensor(np.arange(4), (4,))}, (["prediction"],), 1),  # type: ignore[arg-type]
    ],
)
def test_other_requests_go_the_general_way(request_: Request) -> None:
    assert rpc.encode_request(request_, 7, 500.0) is None


def answer(outputs: dict[str, Array], number: int = 7) -> bytes:
    return wire.encode_reply(Reply(outputs, STAGES), number)


@given(IDS, NAMES, st.sampled_from([np.float32, np.int64]), st.integers(0, 3), st.integers(0, 3))
def test_an_answer_with_one_output_is_read_as_the_general_way_reads_it(
    number: int, name: str, kind: type, rows: int, columns: int
) -> None:
    values = np.arange(rows * columns).reshape(rows, columns).astype(kind)
    short = rpc.decode_answer(answer({name: values}, number), number)
    assert short is not None
    np.testing.assert_array_equal(short.outputs[name], values, strict=True)
    assert short.stages() == STAGES


HALF = {"prediction": np.full((1, 2), 0.5, np.float32)}
GOOD = answer(HALF)


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        GOOD[:-1],
        GOOD + b"\0",
        GOOD + GOOD,
        b"x" + GOOD[1:],
        answer(HALF, 8),
        answer({**HALF, "acc": np.ones((1, 1), np.float32)}),
        answer({}),
        wire.encode_failure(BadRequest("no"), 7),
        wire.encode_reply(Reply(HALF, STAGES * (MAX_HEADER_BYTES // 20)), 7),
        GOOD.replace(b"float32", b"float64"),
        GOOD.replace(b"float32", b"float16"),
        GOOD.replace(b"\x92\x01\x02", b"\x92\x01\x7f"),
        GOOD.replace(b"float32", b"\xff" * 7),
        GOOD.replace(b"float32", b"utf8\xff\xff\xff"),
    ],
)
def test_other_answers_go_the_general_way(data: bytes | None) -> None:
    assert rpc.decode_answer(data, 7) is None


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_byte_that_is_wrong_is_not_read_in_another_way_than_the_general_one_reads_it(place: int, byte: int) -> None:
    data = GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
    short = rpc.decode_answer(data, 7)
    if short is not None:
        opened = unpack_whole(data)
        assert opened is not None
        number, long = wire.decode_answer(opened[0], opened[1])
        assert number == 7
        assert isinstance(long, wire.Answered)
        assert short.outputs.keys() == long.outputs.keys()
        for name, values in short.outputs.items():
            assert values.tobytes() == long.outputs[name].tobytes()
        try:
            expected = long.stages()
        except RemoteFailure:
            return
        assert short.stages() == expected
