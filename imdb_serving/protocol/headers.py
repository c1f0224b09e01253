"""The typed headers of all messages, checked while MessagePack is decoded; tensors as little-endian bytes. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated

import msgspec
import numpy as np

from imdb_serving.errors import BadRequest
from imdb_serving.messages import MAX_FEEDS, Array, ServerInfo, Tensor
from imdb_serving.timing import Stage

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
DeadlineMs = Annotated[float, msgspec.Meta(gt=0, le=86_400_000)]
RequestId = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class TensorHeader(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Describes one tensor frame; `lengths` makes it ragged."""

    name: Name
    dtype: Name
    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=8)]
    lengths: tuple[Count, ...] | None = None


class Predict(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="predict"):
    """Header of a request; `deadline_ms` counts from the moment the server receives it."""

    id: RequestId
    deadline_ms: DeadlineMs
    samples: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    fetch: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_FEEDS)]
    feed: Annotated[list[TensorHeader], msgspec.Meta(max_length=MAX_FEEDS)]


class Hello(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="hello"):
    """Header of a `hello`."""

    id: RequestId


class Answer(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="answer"):
    """Header of a reply: its tensors, and the server's stamps by its own clock."""

    id: RequestId
    fetch: list[TensorHeader]
    stages: list[Stage]
    clock: str


class ReceivedAnswer(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="answer"):
    """The same as a client reads it: the stamps are left as they came until somebody asks for them."""

    id: RequestId
    fetch: list[TensorHeader]
    stages: msgspec.Raw
    clock: str


class Failure(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="failure"):
    """Header of a refusal; `id` is None when the request's id could not be read."""

    id: RequestId | None
    code: str
    message: str


class Info(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="info"):
    """Header of the answer to `hello`."""

    id: RequestId
    server: ServerInfo


class AnyId(msgspec.Struct, gc=False):
    """The one key that is looked for in a header of which nothing else may be right."""

    id: RequestId | None = None


TEXT = "utf8"
DTYPES = {name: np.dtype(code) for name, code in (
    ("int32", "<i4"), ("int64", "<i8"), ("float32", "<f4"), ("float64", "<f8"), (TEXT, "u1"),
)}  # fmt: skip
INT64, FLOAT32 = DTYPES["int64"], DTYPES["float32"]
DTYPE_NAMES = {DTYPES[name]: name for name in ("int32", "int64", "float32", "float64")}


def cannot_send(name: str, values: Array) -> str:
    """Return why values of a type that the protocol lacks cannot be sent."""
    return f"{name!r} is {values.dtype}; only {', '.join(DTYPES)} can be sent"


def decode_arrays(headers: Sequence[TensorHeader], source: memoryview) -> dict[str, Array]:
    """Return the values by name; raise `BadRequest` when the bytes are not what the headers say."""
    arrays: dict[str, Array] = {}
    begin = 0
    for header in headers:
        try:
            values: Array = np.ndarray(header.shape, DTYPES[header.dtype], source, begin)
        except (KeyError, TypeError, ValueError) as error:
            raise _misfit(header, len(source) - begin, error) from error
        arrays[header.name] = values
        begin += values.nbytes + 7 & ~7
    if begin != len(source):
        raise BadRequest(f"the header describes {begin} bytes of tensors, each padded to 8; {len(source)} follow")
    if len(arrays) != len(headers):
        raise _same_name()
    return arrays


def text_header(name: str, texts: Array) -> TensorHeader:
    """Return the header of an output of texts, one a sample: its values are their UTF-8, one behind the other."""
    lengths = tuple(len(text.encode()) for text in texts.tolist())
    return TensorHeader(name, TEXT, (sum(lengths),), lengths)


def decode_outputs(headers: Sequence[TensorHeader], source: memoryview) -> dict[str, Array]:
    """Return the outputs by name, texts as numpy's; raise `BadRequest` as `decode_arrays` does."""
    arrays = decode_arrays(headers, source)
    for header in headers:
        if header.dtype == TEXT:
            tensor = Tensor(arrays[header.name], header.lengths, text=True)
            tensor.check()
            arrays[header.name] = np.array([part.tobytes().decode("utf-8", "replace") for part in tensor.split()])
    return arrays


def check_frames(headers: Sequence[TensorHeader], frames: Sequence[bytes | bytearray | memoryview]) -> None:
    """Raise `BadRequest` when the frames are not what the headers say: in one piece their ends cannot be told."""
    if len(headers) != len(frames):
        raise BadRequest(f"the header describes {len(headers)} tensors, {len(frames)} frames follow")
    for header, frame in zip(headers, frames, strict=True):
        dtype = DTYPES.get(header.dtype)
        if dtype is None or dtype.itemsize * prod(header.shape) != len(frame):
            raise _misfit(header, len(frame), None)


def decode_tensors(headers: Sequence[TensorHeader], source: memoryview) -> Mapping[str, Tensor]:
    """Return the tensors by name, not yet checked; raise `BadRequest` as `decode_arrays` does."""
    arrays = decode_arrays(headers, source)
    return {header.name: Tensor(arrays[header.name], header.lengths, header.dtype == TEXT) for header in headers}


def _same_name() -> BadRequest:
    return BadRequest("two tensors have the same name")


def _misfit(header: TensorHeader, given: int, error: Exception | None) -> BadRequest:
    dtype = DTYPES.get(header.dtype)
    if dtype is None:
        return BadRequest(f"{header.name!r} has dtype {header.dtype!r}; known: {', '.join(DTYPES)}")
    size = dtype.itemsize * prod(header.shape)
    if size == 0 and given == 0:  # no values, but extents beyond what an array can have
        return BadRequest(f"{header.name!r} cannot have the shape {list(header.shape)}: {error}")
    return BadRequest(f"{header.name!r} has {given} bytes; {header.dtype} of shape {list(header.shape)} takes {size}")
