"""Messages survive the journey, and whatever arrives, only `BadRequest` is raised."""

from __future__ import annotations

import string
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imdb_serving.errors import UNFORESEEN, BadRequest, RemoteFailure, RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.messages import Reply, Request, ServerInfo, Tensor
from imdb_serving.protocol import wire
from imdb_serving.protocol.framing import MAX_HEADER_BYTES, PREFIX, PROTOCOL, Frame, missing, unpack, unpack_whole
from imdb_serving.protocol.headers import DTYPES, Failure, Hello, Predict
from imdb_serving.protocol.wire import Answered
from imdb_serving.timing import CLOCK_ID, Stage

Frames = Sequence[Frame]

INFO = ServerInfo(
    "imdb-serving/1", "0.1.0", "none", "cnn", 2, "thread", ("words",), ("acc",), 1 << 24, 7, ("op0", "mine")
)
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


def received(frames: Frames) -> Request:
    header, tensors = wire.open_piece(wire.join(frames, 1 << 32))
    question = wire.read_question(header)
    assert isinstance(question, Predict)
    return wire.decode_request(question, tensors)


def answered(whole: Frame) -> tuple[int | None, Answered | ServerInfo | ServingError]:
    return wire.decode_answer(*wire.open_piece(whole))


@given(requests(), IDS, st.floats(0.001, 86_400_000))
def test_a_request_survives_the_journey(request_: Request, number: int, deadline: float) -> None:
    header, tensors = wire.open_piece(wire.encode_request(request_, number, deadline))
    question = wire.read_question(header)
    assert isinstance(question, Predict)
    assert (question.id, question.deadline_ms, wire.read_id(header)) == (number, deadline, number)
    arrived = wire.decode_request(question, tensors)
    assert (arrived.samples, arrived.fetch, list(arrived.feed)) == (
        request_.samples,
        request_.fetch,
        list(request_.feed),
    )
    for name, tensor in request_.feed.items():
        assert_same(arrived.feed[name], tensor)


@given(replies(), IDS)
def test_a_reply_survives_the_journey(reply: Reply, number: int) -> None:
    answer_id, arrived = answered(wire.encode_reply(reply, number))
    assert isinstance(arrived, Answered)
    assert (answer_id, arrived.clock) == (number, CLOCK_ID)
    if reply.stages:
        assert arrived.stages() == reply.stages
    else:
        with pytest.raises(RemoteFailure, match="without a stage"):
            arrived.stages()
    assert list(arrived.outputs) == list(reply.outputs)
    for name, values in reply.outputs.items():
        assert_same(Tensor(arrived.outputs[name]), Tensor(values))


def test_hello_and_info_survive_the_journey() -> None:
    assert wire.read_question(wire.open_piece(wire.encode_hello(5)).header) == Hello(5)
    assert answered(wire.encode_info(INFO, 5)) == (5, INFO)


@given(replies(), IDS)
def test_an_answer_that_is_split_has_a_frame_for_each_tensor(reply: Reply, number: int) -> None:
    version, header, *tensors = wire.split(wire.encode_reply(reply, number))
    assert (version, wire.read_id(header)) == (PROTOCOL, number)
    assert tensors == [values.tobytes() for values in reply.outputs.values()]


def test_so_is_what_has_no_tensors() -> None:
    whole = wire.encode_failure(BadRequest("no"), 1)
    assert wire.split(whole) == [PROTOCOL, bytes(wire.open_piece(whole).header)]


@pytest.mark.parametrize("kind", [BadRequest, ServerUnavailable, RequestTimeout, RemoteFailure])
def test_a_failure_arrives_as_the_error_it_was(kind: type[ServingError]) -> None:
    number, error = answered(wire.encode_failure(kind("why"), None))
    assert (number, type(error), str(error)) == (None, kind, "why")


def test_a_fault_of_the_server_arrives_without_its_words() -> None:
    _, error = answered(wire.encode_failure(ZeroDivisionError("by zero"), 3))
    assert (type(error), str(error)) == (RemoteFailure, UNFORESEEN)


def test_an_unknown_failure_code_means_internal() -> None:
    failure = Failure(1, "tea_break", "later")
    _, error = answered(piece(msgspec.msgpack.encode(failure), b""))
    assert (type(error), str(error)) == (RemoteFailure, "later")


def test_values_travel_little_endian_in_c_order() -> None:
    columns = np.array([[1, 2], [3, 4]], dtype=np.int32, order="F")
    whole = wire.encode_request(Request({"words": Tensor(columns)}, ("prediction",), 2), 1, 1.0)
    assert wire.open_piece(whole).tensors == struct.pack("<4i", 1, 2, 3, 4)


WORDS = {"name": "words", "dtype": "int64", "shape": [3], "lengths": [3]}
DATA = struct.pack("<3q", 8, 233, 52)


def message(data: list[bytes] | None = None, **changes: Any) -> list[Any]:
    """The documented example, with some keys changed."""
    header = {
        "kind": "predict", "id": 1, "deadline_ms": 5000, "samples": 1, "fetch": ["prediction"], "feed": [WORDS],
    }  # fmt: skip
    return [PROTOCOL, msgspec.msgpack.encode({**header, **changes}), *([DATA] if data is None else data)]


def tensor(**changes: Any) -> dict[str, Any]:
    return {"feed": [{**WORDS, **changes}]}


def refusal(frames: list[Any]) -> str:
    with pytest.raises(BadRequest) as caught:
        received(frames)
    return str(caught.value)


def test_the_example_and_one_with_a_key_of_the_future_are_read() -> None:
    assert received(message()).feed["words"].values.tolist() == [8, 233, 52]
    assert received(message(colour="red")).feed["words"].values.tolist() == [8, 233, 52]


@pytest.mark.parametrize("version", [b"imdb-serving/2", b"imdb-serving/10", b"", b"\x00" * 100])
def test_another_version_is_refused_by_name(version: bytes) -> None:
    assert "this end speaks imdb-serving/1" in refusal([version, *message()[1:]])


def test_a_header_is_limited() -> None:
    assert "header of at most 1048576 bytes" in refusal(message(colour="x" * MAX_HEADER_BYTES))


@pytest.mark.parametrize("frames", [[], [PROTOCOL], [b""]])
def test_a_message_needs_a_version_and_a_header(frames: list[Any]) -> None:
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
        (message(**tensor(dtype="utf8", shape=[24], lengths=None)), "'words': a text needs lengths"),
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
        ([PROTOCOL, b"\x81" * 100_000], "malformed header"),
        ([PROTOCOL, b"\x91" * 1_000_000], "malformed header"),
        ([PROTOCOL, message()[1] + b"\x00"], "malformed header"),
    ],
)
def test_what_does_not_fit_is_refused(frames: list[Any], words: str) -> None:
    assert words in refusal(frames)


@pytest.mark.parametrize("shape", [[0, 1 << 32, 1 << 32, 1 << 32], [1, 1 << 32, 1 << 32, 0]])
def test_an_empty_tensor_of_an_impossible_shape_is_refused(shape: list[int]) -> None:
    assert refusal(message(data=[b""], **tensor(shape=shape, lengths=None)))


def test_a_type_that_has_no_name_on_the_wire_is_not_sent() -> None:
    request_ = Request({"words": Tensor(np.zeros((1, 1), np.float16))}, ("prediction",), 1)
    with pytest.raises(BadRequest, match="'words' is float16; only int32"):
        wire.encode_request(request_, 1, 1.0)


def test_the_id_is_found_however_wrong_the_rest_is() -> None:
    assert wire.read_id(message(samples="many", kind="nonsense")[1]) == 1
    assert wire.read_id(b"\xff") is None


def read_everything(frames: list[Any]) -> None:
    """Put frames through all readers; anything but a `BadRequest` goes on to the test."""
    try:
        header, tensors = wire.open_piece(wire.join(frames, 1 << 32))
    except BadRequest:
        return
    number = wire.read_id(header)
    assert number is None or number >= 0
    _, answer = wire.decode_answer(header, tensors)
    assert isinstance(answer, Answered | ServerInfo | ServingError)
    if isinstance(answer, Answered):
        with suppress(RemoteFailure):
            answer.stages()
    with suppress(BadRequest):
        question = wire.read_question(header)
        if isinstance(question, Predict):
            assert wire.decode_request(question, tensors).samples == question.samples


VALID = [
    message(),
    message(data=[b"a b", struct.pack("<q", 1)], feed=[
        {"name": "words", "dtype": "utf8", "shape": [3], "lengths": [3]},
        {"name": "label", "dtype": "int64", "shape": [1, 1]},
    ]),
    [PROTOCOL, bytes(wire.open_piece(wire.encode_hello(3)).header)],
    wire.split(wire.encode_info(INFO, 4)),
    wire.split(wire.encode_failure(BadRequest("no"), None)),
    wire.split(wire.encode_reply(Reply({"prediction": np.zeros((1, 2), np.float32)}, [Stage("queue", 1, 2)]), 6)),
]  # fmt: skip


def piece(header: bytes, body: bytes, version: bytes = PROTOCOL) -> bytes:
    """A message in one piece, written from docs/protocol.md."""
    prefix = version.ljust(16, b"\0") + struct.pack("<II", len(header), len(body))
    return prefix + header + bytes(-len(header) % 8) + body


def in_one(frames: list[bytes]) -> bytes:
    """The same message in one piece."""
    return piece(frames[1], b"".join(frame + bytes(-len(frame) % 8) for frame in frames[2:]))


@pytest.mark.parametrize("frames", VALID)
def test_a_message_in_one_piece_is_what_the_document_says(frames: list[bytes]) -> None:
    whole = in_one(frames)
    assert wire.open_piece(whole).header == frames[1]
    read_everything([whole])
    request_ = wire.encode_request(received(message()), 1, 5000.0)
    assert request_ == piece(bytes(wire.open_piece(request_).header), DATA)


@pytest.mark.parametrize("frames", VALID[:3])
def test_a_question_in_frames_is_joined_to_the_same_piece(frames: list[bytes]) -> None:
    assert wire.join(frames, 1 << 20) == in_one(frames)
    with pytest.raises(BadRequest, match="takes at most 40"):
        wire.join([*frames[:1], frames[1] + bytes(40), *frames[2:]], 40)


@pytest.mark.parametrize("frames", VALID)
def test_a_piece_is_whole_when_its_last_byte_is_there(frames: list[bytes]) -> None:
    whole = in_one(frames)
    for end in range(len(whole)):
        assert unpack(whole[:end]) is None
        assert 0 < missing(whole[:end]) <= len(whole) - end
    opened = unpack(whole + b"more")
    assert opened is not None
    assert opened[2] == len(whole)


@pytest.mark.parametrize(
    ("begun", "words"),
    [
        (piece(b"", b"", b"imdb-serving/2"), "unknown protocol b'imdb-serving/2'; this end speaks imdb-serving/1"),
        (b"GET / HTTP/1.1\r\nHost: here\r\n", "unknown protocol b'GET / HTTP/1.1"),
        (PREFIX.pack(PROTOCOL, (1 << 20) + 1, 0), "the header has 1048577 bytes, at most 1048576"),
        (PREFIX.pack(PROTOCOL, 8, 1000), "has 1032 bytes, this server takes at most 1000"),
    ],
)
def test_what_can_be_no_piece_is_refused_by_its_prefix(begun: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        unpack(begun, 1000 if b"\xe8\x03" in begun else 1 << 24)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("whole", "words"),
    [
        (in_one(message())[:-1], "has 159 bytes, and its prefix says otherwise"),
        (in_one(message()) + bytes(8), "has 168 bytes, and its prefix says otherwise"),
        (piece(message()[1], DATA[:16]), "'words' has 16 bytes; int64 of shape [3] takes 24"),
        (piece(message()[1], DATA + bytes(8)), "describes 24 bytes of tensors, each padded to 8; 32 follow"),
        (piece(message(feed=[WORDS, WORDS])[1], DATA + DATA), "two tensors have the same name"),
        (piece(b"\x81" * 100, b""), "malformed header"),
    ],
)
def test_a_piece_that_is_not_what_it_says_is_refused(whole: bytes, words: str) -> None:
    assert words in refusal([whole])


@settings(max_examples=300)
@given(st.sampled_from(VALID), st.data())
def test_the_short_way_to_open_a_piece_takes_nothing_that_the_long_way_would_not(
    frames: list[bytes], data: st.DataObject
) -> None:
    whole = in_one(frames)
    begun = bytearray(whole + data.draw(st.binary(max_size=9)))
    for _ in range(data.draw(st.integers(0, 2))):
        begun[data.draw(st.integers(0, PREFIX.size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    del begun[data.draw(st.integers(0, len(begun))) :]
    most = len(whole) - data.draw(st.integers(0, 1))
    try:
        opened = unpack(begun, most)
    except BadRequest:
        opened = None
    assert unpack_whole(begun, most) == (opened if opened and opened[2] == len(begun) else None)


SHAPES = st.lists(st.integers(0, 9), min_size=0, max_size=2)


@settings(max_examples=300)
@given(SHAPES, st.none() | SHAPES, st.sampled_from([*DTYPES, "int65"]), st.integers(0, 80), st.integers(1, 2))
@example([3], [3], "int32", 12, 1)
def test_a_single_tensor_is_read_alike_from_a_frame_and_from_a_piece(
    shape: list[int], lengths: list[int] | None, dtype: str, size: int, samples: int
) -> None:
    described = {"name": "words", "dtype": dtype, "shape": shape} | ({"lengths": lengths} if lengths else {})
    data = bytes(range(size))
    several = message([data], feed=[described], samples=samples)
    results: list[Request | None] = []
    for frames in (several, [in_one(several)]):
        try:
            results.append(received(frames))
        except BadRequest:
            results.append(None)
    of_frame, of_piece = results
    if of_frame is None or of_piece is None:
        # A piece cannot tell the last bytes of a tensor from the zeros that follow it.
        assert of_frame is None
        assert of_piece is None or 0 < size + 7 & ~7 == of_piece.feed["words"].values.nbytes + 7 & ~7
        return
    assert of_frame.fetch == of_piece.fetch
    assert of_frame.samples == of_piece.samples
    assert_same(of_frame.feed["words"], of_piece.feed["words"])


@settings(max_examples=300)
@given(st.sampled_from(VALID), st.data())
def test_flipped_bits_of_a_piece_raise_nothing_else(frames: list[bytes], data: st.DataObject) -> None:
    broken = bytearray(in_one(frames))
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(16, len(broken) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    read_everything([bytes(broken)])


@given(st.lists(st.binary(max_size=40), max_size=4), st.booleans())
@example([b"\xdf\xff\xff\xff\xff"], True)
@example([b"\xdd\xff\xff\xff\xff"], True)
def test_random_frames_raise_nothing_else(frames: list[bytes], versioned: bool) -> None:
    read_everything([PROTOCOL, *frames] if versioned else [*frames])


@settings(max_examples=300)
@given(st.sampled_from(VALID), st.data())
def test_flipped_bits_raise_nothing_else(frames: list[Any], data: st.DataObject) -> None:
    broken = [bytearray(frame) for frame in frames]
    for _ in range(data.draw(st.integers(1, 4))):
        frame = data.draw(st.sampled_from([frame for frame in broken[1:] if frame]))
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    read_everything([bytes(frame) for frame in broken])


@pytest.mark.parametrize("frames", VALID)
def test_truncated_messages_raise_nothing_else(frames: list[Any]) -> None:
    for number, frame in enumerate(frames):
        read_everything(frames[:number])
        for end in range(len(frame)):
            read_everything([*frames[:number], frame[:end], *frames[number + 1 :]])


COUNTS = st.one_of(st.integers(0, 3), st.sampled_from([1 << 31, 1 << 32]))
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["words", "label", ""]),
        "dtype": st.sampled_from([*DTYPES, "int8"]),
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
    arrived = received([wire.encode_request(request_, 1, 1.0)])
    assert (list(arrived.feed), arrived.fetch) == ([string.printable], ("é\u4e2d",))
