"""The wire format: messages to frames and back, no I/O. Specified in docs/protocol.md.

A message is a list of frames: the protocol version, a MessagePack header, then one frame of raw little-endian values
a tensor. Everything received is checked before it is used; what does not fit raises `BadRequest`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np

from imdb_serving.errors import BadRequest, RemoteFailure, ServingError, from_code, wire_code
from imdb_serving.messages import Array, Reply, Request, ServerInfo, Tensor
from imdb_serving.timing import CLOCK_ID, Stage

PROTOCOL = b"imdb-serving/1"
MAX_HEADER_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 16 << 20
TEXT = "utf8"
DTYPES = {name: np.dtype(code) for name, code in (
    ("int32", "<i4"), ("int64", "<i8"), ("float32", "<f4"), ("float64", "<f8"), (TEXT, "u1"),
)}  # fmt: skip
_NAMES = {DTYPES[name]: name for name in ("int32", "int64", "float32", "float64")}

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
DeadlineMs = Annotated[float, msgspec.Meta(gt=0, le=86_400_000)]
RequestId = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Frame = bytes | bytearray | memoryview


class TensorHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """Describes one tensor frame; `lengths` makes it ragged."""

    name: Name
    dtype: Name
    shape: Annotated[list[Count], msgspec.Meta(max_length=8)]
    lengths: list[Count] | None = None


class Predict(msgspec.Struct, frozen=True, tag_field="kind", tag="predict"):
    """Header of a request; `deadline_ms` counts from the moment the server receives it."""

    id: RequestId
    deadline_ms: DeadlineMs
    samples: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    fetch: Annotated[list[Name], msgspec.Meta(max_length=64)]
    feed: Annotated[list[TensorHeader], msgspec.Meta(max_length=64)]


class Hello(msgspec.Struct, frozen=True, tag_field="kind", tag="hello"):
    """Header of the question who is there."""

    id: RequestId


class Answer(msgspec.Struct, frozen=True, tag_field="kind", tag="answer"):
    """Header of a reply: its tensors, and the server's stamps by its own clock."""

    id: RequestId
    fetch: list[TensorHeader]
    stages: list[Stage]
    clock: str


class Failure(msgspec.Struct, frozen=True, tag_field="kind", tag="failure"):
    """Header of a refusal; `id` is None when the request's id could not be read."""

    id: RequestId | None
    code: str
    message: str


class Info(msgspec.Struct, frozen=True, tag_field="kind", tag="info"):
    """Header of the answer to `hello`."""

    id: RequestId
    server: ServerInfo


_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)

_encoder = msgspec.msgpack.Encoder()
_decode_question = msgspec.msgpack.Decoder(Predict | Hello).decode
_decode_answer = msgspec.msgpack.Decoder(Answer | Failure | Info).decode


class _AnyId(msgspec.Struct):
    id: RequestId | None = None


class Head(msgspec.Struct, frozen=True):
    """What a server must know of a request before a worker reads it whole."""

    kind: Name
    id: RequestId
    deadline_ms: DeadlineMs = 1.0


PREDICT, HELLO = "predict", "hello"
_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_id = msgspec.msgpack.Decoder(_AnyId).decode


def encode_request(request: Request, request_id: int, deadline_ms: float) -> list[Frame]:
    """Return the frames of a request."""
    headers, frames = _encode_tensors(request.feed)
    header = Predict(request_id, deadline_ms, request.samples, list(request.fetch), headers)
    return [PROTOCOL, _encoder.encode(header), *frames]


def encode_hello(request_id: int) -> list[Frame]:
    """Return the frames that ask a server for its `ServerInfo`."""
    return [PROTOCOL, _encoder.encode(Hello(request_id))]


def encode_reply(reply: Reply, request_id: int) -> list[Frame]:
    """Return the frames of a reply."""
    try:
        headers, frames = _encode_tensors({name: Tensor(values) for name, values in reply.outputs.items()})
    except BadRequest as error:  # an op made what cannot be sent: the server's fault, not the client's
        raise RemoteFailure(f"output {error}") from error
    return [PROTOCOL, _encoder.encode(Answer(request_id, headers, reply.stages, CLOCK_ID)), *frames]


def encode_info(info: ServerInfo, request_id: int) -> list[Frame]:
    """Return the frames of the answer to `hello`."""
    return [PROTOCOL, _encoder.encode(Info(request_id, info))]


def encode_failure(error: Exception, request_id: int | None) -> list[Frame]:
    """Return the frames that tell a client of an error; what is not a `ServingError` shows its type and text."""
    message = str(error) if isinstance(error, ServingError) else f"{type(error).__name__}: {error}"
    return [PROTOCOL, _encoder.encode(Failure(request_id, wire_code(error), message))]


def read_head(frames: Sequence[Frame], max_bytes: int = MAX_MESSAGE_BYTES) -> Head:
    """Check size and version of a received message and return what the server must know of it, and no more."""
    size = sum(map(len, frames))
    if size > max_bytes:
        raise BadRequest(f"the message has {size} bytes, this server takes at most {max_bytes}; send smaller batches")
    try:
        head: Head = _decode_head(_header_frame(frames))
    except _UNREADABLE as error:
        raise BadRequest(f"malformed header: {error}") from error
    if head.kind not in (PREDICT, HELLO):
        raise BadRequest(f"malformed header: Invalid value {head.kind!r} - at `$.kind`")
    return head


def read_header(frames: Sequence[Frame]) -> Predict | Hello:
    """Return the whole header of a received request; tensors are not looked at."""
    try:
        question: Predict | Hello = _decode_question(_header_frame(frames))
    except _UNREADABLE as error:
        raise BadRequest(f"malformed header: {error}") from error
    return question


def read_id(frames: Sequence[Frame]) -> int | None:
    """Return the id in a message's header, however wrong the rest may be, or None."""
    try:
        return _decode_id(_header_frame(frames)).id
    except (*_UNREADABLE, BadRequest):
        return None


def decode_request(header: Predict, frames: Sequence[Frame]) -> Request:
    """Return the request that `header` and the tensor frames behind it (`frames[2:]`) describe."""
    return Request(_decode_tensors(header.feed, frames[2:]), tuple(header.fetch), header.samples)


def decode_answer(frames: Sequence[Frame]) -> tuple[int | None, Reply | ServerInfo | ServingError, str]:
    """Return a received answer: the request's id, the reply, info or typed error, and the server's clock id."""
    try:
        header = _decode_answer(_header_frame(frames))
        if isinstance(header, Failure):
            return header.id, from_code(header.code, header.message), ""
        if isinstance(header, Info):
            return header.id, header.server, ""
        tensors = _decode_tensors(header.fetch, frames[2:])
    except (*_UNREADABLE, BadRequest) as error:
        return None, RemoteFailure(f"the server's answer cannot be read: {error}"), ""
    return header.id, Reply({name: tensor.values for name, tensor in tensors.items()}, header.stages), header.clock


def _header_frame(frames: Sequence[Frame]) -> Frame:
    version = bytes(frames[0][:64]) if frames else b""
    if version != PROTOCOL:
        raise BadRequest(f"unknown protocol {version!r}; this end speaks {PROTOCOL.decode()}")
    if len(frames) < 2 or len(frames[1]) > MAX_HEADER_BYTES:
        raise BadRequest(f"a message needs a header of at most {MAX_HEADER_BYTES} bytes as its second frame")
    return frames[1]


def _encode_tensors(tensors: Mapping[str, Tensor]) -> tuple[list[TensorHeader], list[Frame]]:
    headers: list[TensorHeader] = []
    frames: list[Frame] = []
    for name, tensor in tensors.items():
        values = tensor.values
        dtype = TEXT if tensor.text else _NAMES.get(values.dtype)
        if dtype is None:
            raise BadRequest(f"{name!r} is {values.dtype}; only {', '.join(DTYPES)} can be sent")
        lengths = None if tensor.lengths is None else list(tensor.lengths)
        headers.append(TensorHeader(name, dtype, list(values.shape), lengths))
        frames.append(values.tobytes())
    return headers, frames


def _decode_tensors(headers: Sequence[TensorHeader], frames: Sequence[Frame]) -> dict[str, Tensor]:
    if len(headers) != len(frames):
        raise BadRequest(f"the header describes {len(headers)} tensors, {len(frames)} frames follow")
    tensors = {header.name: _decode_tensor(header, frame) for header, frame in zip(headers, frames, strict=True)}
    if len(tensors) != len(headers):
        raise BadRequest("two tensors have the same name")
    return tensors


def _decode_tensor(header: TensorHeader, frame: Frame) -> Tensor:
    dtype = DTYPES.get(header.dtype)
    if dtype is None:
        raise BadRequest(f"{header.name!r} has dtype {header.dtype!r}; known: {', '.join(DTYPES)}")
    expected = dtype.itemsize
    for extent in header.shape:
        expected *= extent
    if expected != len(frame):
        raise BadRequest(
            f"{header.name!r} has {len(frame)} bytes; {header.dtype} of shape {header.shape} takes {expected}"
        )
    try:
        values: Array = np.frombuffer(frame, dtype=dtype).reshape(header.shape)
    except ValueError as error:  # no values, but extents beyond what an array can have
        raise BadRequest(f"{header.name!r} cannot have the shape {header.shape}: {error}") from error
    lengths = None if header.lengths is None else tuple(header.lengths)
    if header.dtype == TEXT and lengths is None:
        raise BadRequest(f"{header.name!r} is text and needs lengths, the bytes of each sample")
    return Tensor(values, lengths, text=header.dtype == TEXT)
