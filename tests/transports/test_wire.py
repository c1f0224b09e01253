"""Messages survive the journey, and whatever arrives, only `BadRequest` is raised."""

from __future__ import annotations

import string
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imdb_serving.errors import BadRequest, RemoteFailure, RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.messages import Reply, Request, ServerInfo, Tensor
from imdb_serving.timing import CLOCK_ID, Stage
from imdb_serving.transports.rpc import wire

INFO = ServerInfo("imdb-serving/1", "0.1.0", "null", "cnn", 2, "thread", ("words",), ("acc",), 1 << 24, 7)
IDS = st.integers(0, (1 << 63) - 1)
INT_TYPES = st.sampled_from([np.int32, np.int64])
FLOAT_TYPES = st.sampled_from([np.float32, np.float64])
NAMES = st.text(max_size=12)


@st.composite
def ragged(draw: st.DrawFn, samples: int) -> Tensor:
    reviews = draw(st.lists(st.lists(st.integers(0, (1 << 31) - 1), max_size=5), min_size=samples, max_size=samples))
    values = np.array([word for review in reviews for word in review], dtype=draw(INT_TYPES))
    return Tensor(values, tuple(map(len, reviews)))


@st.composite
def texts(draw: st.DrawFn, samples: int) -> Tensor:
    reviews = [text.encode() for text in draw(st.lists(st.text(max_size=8), min_size=samples, max_size=samples))]
    return Tensor(np.frombuffer(b"".join(reviews), np.uint8), tuple(map(len, reviews)), text=True)


@st.composite
def dense(draw: st.DrawFn, samples: int) -> Tensor:
    shape = (samples, *draw(st.lists(st.integers(0, 3), max_size=2)))
    kind = draw(st.one_of(INT_TYPES, FLOAT_TYPES))
    return Tensor((np.arange(np.prod(shape)) - 1).reshape(shape).astype(kind))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    samples = draw(st.integers(1, 4))
    tensor = st.one_of(ragged(samples), texts(samples), dense(samples))
    return Request(
        draw(st.dictionaries(NAMES, tensor, max_size=3)), tuple(draw(st.lists(NAMES, min_size=1, max_size=3))), samples
    )


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    outputs = draw(st.dictionaries(NAMES, dense(2), max_size=3))
    stamp = st.integers(-(1 << 62), 1 << 62)
    return Reply({name: tensor.values for name, tensor in outputs.items()}, draw(st.lists(stages(stamp), max_size=4)))


def stages(stamp: st.SearchStrategy[int]) -> st.SearchStrategy[Stage]:
    return st.builds(Stage, NAMES, stamp, stamp)


def assert_same(left: Tensor, right: Tensor) -> None:
    assert (left.lengths, left.text) == (right.lengths, right.text)
    assert left.values.dtype == right.values.dtype
    assert np.array_equal(left.values, right.values)
    assert left.values.shape == right.values.shape


def received(frames: list[wire.Frame]) -> Request:
    header = wire.read_header(frames)
    assert isinstance(header, wire.Predict)
    return wire.decode_request(header, frames)


@given(requests(), IDS, st.floats(0.001, 86_400_000))
def test_a_request_survives_the_journey(request_: Request, number: int, deadline: float) -> None:
    frames = wire.encode_request(request_, number, deadline)
    header = wire.read_header(frames)
    assert isinstance(header, wire.Predict)
    assert (header.id, header.deadline_ms, wire.read_id(frames)) == (number, deadline, number)
    arrived = wire.decode_request(header, frames)
    assert (arrived.samples, arrived.fetch, list(arrived.feed)) == (
        request_.samples,
        request_.fetch,
        list(request_.feed),
    )
    for name, tensor in request_.feed.items():
        assert_same(arrived.feed[name], tensor)


@given(replies(), IDS)
def test_a_reply_survives_the_journey(reply: Reply, number: int) -> None:
    answer_id, arrived, clock = wire.decode_answer(wire.encode_reply(reply, number))
    assert isinstance(arrived, Reply)
    assert (answer_id, arrived.stages, clock) == (number, reply.stages, CLOCK_ID)
    assert list(arrived.outputs) == list(reply.outputs)
    for name, values in reply.outputs.items():
        assert_same(Tensor(arrived.outputs[name]), Tensor(values))


def test_hello_and_info_survive_the_journey() -> None:
    assert wire.read_header(wire.encode_hello(5)) == wire.Hello(5)
    assert wire.decode_answer(wire.encode_info(INFO, 5)) == (5, INFO, "")


@pytest.mark.parametrize("kind", [BadRequest, ServerUnavailable, RequestTimeout, RemoteFailure])
def test_a_failure_arrives_as_the_error_it_was(kind: type[ServingError]) -> None:
    number, error, _ = wire.decode_answer(wire.encode_failure(kind("why"), None))
    assert (number, type(error), str(error)) == (None, kind, "why")


def test_a_fault_of_the_server_arrives_as_remote_failure_with_its_type() -> None:
    _, error, _ = wire.decode_answer(wire.encode_failure(ZeroDivisionError("by zero"), 3))
    assert (type(error), str(error)) == (RemoteFailure, "ZeroDivisionError: by zero")


def test_an_unknown_failure_code_means_internal() -> None:
    failure = wire.Failure(1, "tea_break", "later")
    _, error, _ = wire.decode_answer([wire.PROTOCOL, msgspec.msgpack.encode(failure)])
    assert (type(error), str(error)) == (RemoteFailure, "later")


def test_values_travel_little_endian_in_c_order() -> None:
    columns = np.array([[1, 2], [3, 4]], dtype=np.int32, order="F")
    frames = wire.encode_request(Request({"words": Tensor(columns)}, ("prediction",), 2), 1, 1.0)
    assert bytes(frames[2]) == struct.pack("<4i", 1, 2, 3, 4)


WORDS = {"name": "words", "dtype": "int64", "shape": [3], "lengths": [3]}
DATA = struct.pack("<3q", 8, 233, 52)


def message(data: list[bytes] | None = None, **changes: Any) -> list[wire.Frame]:
    """The documented example, with some keys changed."""
    header = {
        "kind": "predict", "id": 1, "deadline_ms": 5000, "samples": 1, "fetch": ["prediction"], "feed": [WORDS],
    }  # fmt: skip
    return [wire.PROTOCOL, msgspec.msgpack.encode({**header, **changes}), *([DATA] if data is None else data)]


def tensor(**changes: Any) -> dict[str, Any]:
    return {"feed": [{**WORDS, **changes}]}


def refusal(frames: list[wire.Frame]) -> str:
    with pytest.raises(BadRequest) as caught:
        received(frames)
    return str(caught.value)


def test_the_example_and_one_with_a_key_of_the_future_are_read() -> None:
    assert received(message()).feed["words"].values.tolist() == [8, 233, 52]
    assert received(message(colour="red")).feed["words"].values.tolist() == [8, 233, 52]


@pytest.mark.parametrize("version", [b"imdb-serving/2", b"imdb-serving/10", b"", b"\x00" * 100])
def test_another_version_is_refused_by_name(version: bytes) -> None:
    assert "this end speaks imdb-serving/1" in refusal([version, *message()[1:]])


def test_the_sum_of_all_frames_is_limited() -> None:
    frames = message()
    size = sum(map(len, frames))
    assert wire.read_head(frames, max_bytes=size).kind == wire.PREDICT
    with pytest.raises(BadRequest, match=f"{size} bytes, this server takes at most {size - 1}"):
        wire.read_head(frames, max_bytes=size - 1)


def test_a_header_is_limited() -> None:
    assert "header of at most 1048576 bytes" in refusal(message(colour="x" * wire.MAX_HEADER_BYTES))


@pytest.mark.parametrize("frames", [[], [wire.PROTOCOL], [b""]])
def test_a_message_needs_a_version_and_a_header(frames: list[wire.Frame]) -> None:
    assert refusal(frames)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (message(data=[DATA[:-1]]), "has 23 bytes; int64 of shape [3] takes 24"),
        (message(data=[]), "describes 1 tensors, 0 frames"),
        (message(data=[DATA, DATA]), "describes 1 tensors, 2 frames"),
        (message(data=[DATA, DATA], feed=[WORDS, WORDS]), "two tensors have the same name"),
        (message(**tensor(dtype="complex64")), "dtype 'complex64'; known: int32, int64"),
        (message(**tensor(lengths=[2])), "sum to 3, got a sum of 2"),
        (message(**tensor(lengths=[1, 2])), "holds 2 samples, the request says 1"),
        (message(**tensor(shape=[1, 3])), "one-dimensional"),
        (message(**tensor(dtype="utf8", shape=[24], lengths=None)), "text and needs lengths"),
        (message(data=[DATA[:8]], **tensor(shape=[], lengths=None)), "at least one axis"),
        (message(fetch=[]), "at least one fetch name"),
        (message(samples=0), "malformed header"),
        (message(id=-1), "malformed header"),
        (message(id=1 << 63), "malformed header"),
        (message(id=None), "malformed header"),
        (message(deadline_ms=0), "malformed header"),
        (message(deadline_ms=float("nan")), "malformed header"),
        (message(deadline_ms=86_400_001), "malformed header"),
        (message(samples="1"), "malformed header"),
        (message(kind="answer"), "malformed header"),
        (message(**tensor(shape=[-3])), "malformed header"),
        ([wire.PROTOCOL, b"\x81" * 100_000], "malformed header"),
        ([wire.PROTOCOL, b"\x91" * 1_000_000], "malformed header"),
        ([wire.PROTOCOL, message()[1] + b"\x00"], "malformed header"),
    ],
)
def test_what_does_not_fit_is_refused(frames: list[wire.Frame], words: str) -> None:
    assert words in refusal(frames)


@pytest.mark.parametrize("shape", [[0, 1 << 32, 1 << 32, 1 << 32], [1, 1 << 32, 1 << 32, 0]])
def test_an_empty_tensor_of_an_impossible_shape_is_refused(shape: list[int]) -> None:
    assert refusal(message(data=[b""], **tensor(shape=shape, lengths=None)))


def test_a_type_that_has_no_name_on_the_wire_is_not_sent() -> None:
    request_ = Request({"words": Tensor(np.zeros((1, 1), np.float16))}, ("prediction",), 1)
    with pytest.raises(BadRequest, match="'words' is float16; only int32"):
        wire.encode_request(request_, 1, 1.0)


def test_the_id_is_found_however_wrong_the_rest_is() -> None:
    assert wire.read_id(message(samples="many", kind="nonsense")) == 1
    assert wire.read_id([b"imdb-serving/9", *message()[1:]]) is None


def read_everything(frames: list[wire.Frame]) -> None:
    """Put frames through all readers; anything but a `BadRequest` goes on to the test."""
    number = wire.read_id(frames)
    assert number is None or number >= 0
    _, answer, _ = wire.decode_answer(frames)
    assert isinstance(answer, Reply | ServerInfo | ServingError)
    try:
        header = wire.read_header(frames)
        if isinstance(header, wire.Predict):
            assert wire.decode_request(header, frames).samples == header.samples
    except BadRequest:
        pass


VALID = [
    message(),
    message(data=[b"a b", struct.pack("<q", 1)], feed=[
        {"name": "words", "dtype": "utf8", "shape": [3], "lengths": [3]},
        {"name": "label", "dtype": "int64", "shape": [1, 1]},
    ]),
    wire.encode_hello(3),
    wire.encode_info(INFO, 4),
    wire.encode_failure(BadRequest("no"), None),
    wire.encode_reply(Reply({"prediction": np.zeros((1, 2), np.float32)}, [Stage("queue", 1, 2)]), 6),
]  # fmt: skip


@given(st.lists(st.binary(max_size=40), max_size=4), st.booleans())
@example([b"\xdf\xff\xff\xff\xff"], True)
@example([b"\xdd\xff\xff\xff\xff"], True)
def test_random_frames_raise_nothing_else(frames: list[bytes], versioned: bool) -> None:
    read_everything([wire.PROTOCOL, *frames] if versioned else [*frames])


@settings(max_examples=300)
@given(st.sampled_from(VALID), st.data())
def test_flipped_bits_raise_nothing_else(frames: list[wire.Frame], data: st.DataObject) -> None:
    broken = [bytearray(frame) for frame in frames]
    for _ in range(data.draw(st.integers(1, 4))):
        frame = data.draw(st.sampled_from([frame for frame in broken[1:] if frame]))
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    read_everything([bytes(frame) for frame in broken])


@pytest.mark.parametrize("frames", VALID)
def test_truncated_messages_raise_nothing_else(frames: list[wire.Frame]) -> None:
    for number, frame in enumerate(frames):
        read_everything(frames[:number])
        for end in range(len(frame)):
            read_everything([*frames[:number], frame[:end], *frames[number + 1 :]])


COUNTS = st.one_of(st.integers(0, 3), st.sampled_from([1 << 31, 1 << 32]))
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["words", "label", ""]),
        "dtype": st.sampled_from([*wire.DTYPES, "int8"]),
        "shape": st.lists(COUNTS, max_size=8),
    },
    optional={"lengths": st.one_of(st.none(), st.lists(COUNTS, max_size=4))},
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(TENSORS, st.binary(max_size=24)), max_size=3),
    st.integers(1, 3),
    st.sampled_from(["predict", "answer"]),
)
@example([({"name": "words", "dtype": "int64", "shape": [1, 1 << 32, 1 << 32, 0]}, b"")], 1, "predict")
def test_well_formed_headers_of_nonsense_raise_nothing_else(
    tensors: list[tuple[dict[str, Any], bytes]], samples: int, kind: str
) -> None:
    described, data = [header for header, _ in tensors], [frame for _, frame in tensors]
    fetch = described if kind == "answer" else ["prediction"]
    read_everything(message(data, kind=kind, fetch=fetch, feed=described, samples=samples, stages=[], clock=""))


JSONISH = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)
KEYS = ["kind", "id", "deadline_ms", "samples", "fetch", "feed", "stages", "clock", "code", "message", "server"]


@given(st.dictionaries(st.sampled_from(KEYS), JSONISH, max_size=4))
def test_headers_with_values_of_any_type_raise_nothing_else(changes: dict[str, Any]) -> None:
    read_everything(message(**changes))


def test_names_of_printable_text_are_kept() -> None:
    request_ = Request({string.printable: Tensor(np.zeros((1, 1), np.int32))}, ("é\u4e2d",), 1)
    arrived = received(wire.encode_request(request_, 1, 1.0))
    assert (list(arrived.feed), arrived.fetch) == ([string.printable], ("é\u4e2d",))
