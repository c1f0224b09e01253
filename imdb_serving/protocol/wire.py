"""The wire format: messages to bytes and back, no I/O. Specified in docs/protocol.md.

A message is the protocol's version, a MessagePack header, and raw little-endian values a tensor, in one piece
(`framing.py`). Over ZeroMQ it may also come in several frames, `[version, header, tensor, ...]`, which are joined to
one piece as they arrive, and their answer is split before it leaves. Everything received is checked before it is used;
what does not fit raises `BadRequest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from imdb_serving.errors import BadRequest, RemoteFailure, ServingError, from_code, wire_code, words_of
from imdb_serving.messages import MAX_FEEDS, Array, Reply, Request, ServerInfo, Tensor
from imdb_serving.protocol.framing import (
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    PADDING,
    PROTOCOL,
    VERSION,
    Frame,
    fingerprint_of,
    is_piece,
    join_parts,
    pack,
    pack_prefix,
    too_large,
    unknown_version,
    unpack,
    unpack_whole,
)
from imdb_serving.protocol.headers import (
    DTYPE_NAMES,
    FLOAT32,
    INT64,
    TEXT,
    Answer,
    AnyId,
    Failure,
    Hello,
    Info,
    Predict,
    ReceivedAnswer,
    TensorHeader,
    cannot_send,
    check_frames,
    decode_arrays,
    decode_outputs,
    decode_tensors,
    text_header,
)
from imdb_serving.timing import CLOCK_ID, Stage

Question = Predict | Hello
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding raises, of a header that does not say what it must."""

_encode = msgspec.msgpack.Encoder().encode
decode_question = msgspec.msgpack.Decoder(Question).decode
decode_answer_header = msgspec.msgpack.Decoder(ReceivedAnswer | Failure | Info).decode
_decode_stages = msgspec.msgpack.Decoder(list[Stage]).decode
_decode_id = msgspec.msgpack.Decoder(AnyId).decode


class Opened(NamedTuple):
    """A received message: its header, and what lies behind it."""

    header: memoryview
    tensors: memoryview


def is_one_piece(message: Sequence[Frame]) -> bool:
    """Tell whether a message came in one piece; then its answer goes out in one too."""
    return len(message) == 1 and is_piece(message[0])


def open_piece(whole: Frame) -> Opened:
    """Open a message in one piece; raise `BadRequest` for what is none."""
    piece = unpack(whole)
    if piece is None or piece[2] != len(whole):
        raise BadRequest(f"the message has {len(whole)} bytes, and its prefix says otherwise")
    return Opened(piece[0], piece[1])


def join(message: Sequence[Frame], max_bytes: int) -> Frame:
    """Return a question that came in frames in one piece; raise `BadRequest` for what is none, or too large."""
    if is_one_piece(message):
        open_piece(message[0])
        return message[0]
    version = bytes(message[0][:64]) if message else b""
    if version != PROTOCOL:
        raise unknown_version(version)
    if len(message) < 2 or len(message[1]) > MAX_HEADER_BYTES:
        raise BadRequest(f"a message needs a header of at most {MAX_HEADER_BYTES} bytes as its second frame")
    if len(message) > MAX_FRAMES:
        raise BadRequest(f"the message has more than {MAX_FRAMES} frames: at most {MAX_FEEDS} feeds behind its header")
    size = sum(map(len, message))
    if size > max_bytes:
        raise too_large(size, max_bytes)
    question = read_question(message[1])
    check_frames(question.feed if isinstance(question, Predict) else (), message[2:])
    return join_parts(message[1], message[2:])


def split(piece: Frame) -> list[Frame]:
    """Return a message of ours, in one piece, in frames: the version, the header, and one a tensor."""
    opened = unpack_whole(piece)
    assert opened is not None  # noqa: S101 - we made it
    header, body, _ = opened
    answer = decode_answer_header(header)
    tensors = decode_arrays(answer.fetch, body).values() if type(answer) is ReceivedAnswer else ()
    return [PROTOCOL, bytes(header), *[values.tobytes() for values in tensors]]


def fingerprint(whole: Frame) -> bytes:
    """Return 16 bytes that are equal for two requests that ask the same, whatever their ids and deadlines."""
    opened = open_piece(whole)
    question = read_question(opened.header)
    assert isinstance(question, Predict)  # noqa: S101 - only predictions are passed to workers
    return fingerprint_of([*asked(question), opened.tensors])


def asked(header: Predict) -> list[bytes]:
    """Return what a header asks, without its id and deadline."""
    return [_encode((header.samples, header.fetch, header.feed))]


def encode_request(request: Request, request_id: int, deadline_ms: float) -> bytes:
    """Return a request."""
    headers, arrays = [], []
    for name, tensor in request.feed.items():
        values = tensor.values
        dtype = TEXT if tensor.text else DTYPE_NAMES.get(values.dtype)
        if dtype is None:
            raise BadRequest(cannot_send(name, values))
        headers.append(TensorHeader(name, dtype, values.shape, tensor.lengths))
        arrays.append(values)
    return pack(_encode(Predict(request_id, deadline_ms, request.samples, request.fetch, headers)), arrays)


def encode_hello(request_id: int) -> bytes:
    """Return the question for a server's `ServerInfo`."""
    return pack(_encode(Hello(request_id)), ())


def encode_reply(reply: Reply, request_id: int) -> bytes:
    """Return a reply."""
    outputs = reply.outputs
    stages = reply.record if type(reply.record) is list else reply.stages  # the property costs a call
    if len(outputs) == 1:
        ((name, values),) = outputs.items()
        if values.dtype is FLOAT32 and not values.nbytes & 7:
            # One output for one sample, as most answers have: all that follows is for others. `pack` would do the same
            # at 3 % of the requests/s (docs/performance.md).
            header = _encode(Answer(request_id, [TensorHeader(name, "float32", values.shape)], stages, CLOCK_ID))
            prefix = pack_prefix(VERSION, len(header), values.nbytes)
            return prefix + header + PADDING[-len(header) & 7] + values.tobytes()
    headers: list[TensorHeader] = []
    arrays: list[Array] = []
    for name, values in outputs.items():
        dtype = DTYPE_NAMES.get(values.dtype)
        if dtype is None and values.dtype.kind == "U":
            headers.append(text_header(name, values))
            arrays.append(np.frombuffer("".join(values.tolist()).encode(), np.uint8))
            continue
        if dtype is None:  # an op made what cannot be sent: the server's fault, not the client's
            raise RemoteFailure(f"output {cannot_send(name, values)}")
        headers.append(TensorHeader(name, dtype, values.shape))
        arrays.append(values)
    return pack(_encode(Answer(request_id, headers, stages, CLOCK_ID)), arrays)


def encode_info(info: ServerInfo, request_id: int) -> bytes:
    """Return the answer to `hello`."""
    return pack(_encode(Info(request_id, info)), ())


def encode_failure(error: BaseException, request_id: int | None) -> bytes:
    """Return the message that reports an error to a client."""
    return pack(_encode(Failure(request_id, wire_code(error), words_of(error))), ())


def read_question(header: Frame) -> Question:
    """Return the header of a received request, typed."""
    try:
        question: Question = decode_question(header)
    except UNREADABLE as error:
        raise malformed(error) from error
    return question


def malformed(error: Exception) -> BadRequest:
    """Return the refusal of a header that cannot be read."""
    return BadRequest(f"malformed header: {error}")


def read_id(header: Frame) -> int | None:
    """Return the id in a header, however wrong the rest may be, or None."""
    try:
        return _decode_id(header).id
    except UNREADABLE:
        return None


def id_of(message: Sequence[Frame]) -> int | None:
    """Return the id of a message in frames that cannot be joined, or None."""
    readable = len(message) > 1 and message[0] == PROTOCOL and len(message[1]) <= MAX_HEADER_BYTES
    return read_id(message[1]) if readable else None


def decode_request(header: Predict, tensors: memoryview) -> Request:
    """Return the request that a header and the tensors behind it describe."""
    feed = header.feed
    if len(feed) == header.samples == 1 and header.fetch:
        words = feed[0]
        shape = words.shape
        if words.dtype == "int64" and shape == words.lengths and len(shape) == 1 and shape[0] * 8 == len(tensors):
            # One review as ids, as most clients send, and sound: all that follows is for others.
            return Request({words.name: Tensor(np.ndarray(shape, INT64, tensors), shape)}, header.fetch, 1)
    request = Request(decode_tensors(header.feed, tensors), header.fetch, header.samples)
    request.check()
    return request


class Answered(msgspec.Struct, frozen=True, gc=False):
    """An answer to a prediction: the outputs, the server's stamps as they came, and its clock's id."""

    outputs: dict[str, Array]
    stamps: msgspec.Raw
    clock: str

    def stages(self) -> list[Stage]:
        """Return the server's stages, at least one; raise `RemoteFailure` when they cannot be read."""
        try:
            stages: list[Stage] = _decode_stages(self.stamps)
        except UNREADABLE as error:
            raise RemoteFailure(f"the stamps of the server's answer cannot be read: {error}") from error
        if not stages:
            raise RemoteFailure("the server answered a prediction without a stage")
        return stages


def decode_answer(header: Frame, tensors: memoryview) -> tuple[int | None, Answered | ServerInfo | ServingError]:
    """Return a received answer: the request's id, and the outputs, info or typed error."""
    try:
        answer = decode_answer_header(header)
        if type(answer) is ReceivedAnswer:
            return answer.id, Answered(decode_outputs(answer.fetch, tensors), answer.stages, answer.clock)
    except (*UNREADABLE, BadRequest) as error:
        return None, RemoteFailure(f"the server's answer cannot be read: {error}")
    if isinstance(answer, Failure):
        return answer.id, from_code(answer.code, answer.message)
    return answer.id, answer.server
