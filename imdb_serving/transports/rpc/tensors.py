"""Tensors to raw little-endian values and back, each described by a `TensorHeader`. No I/O.

The bytes of several tensors are a list of frames, or one body in which each begins at a multiple of eight bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from imdb_serving.errors import BadRequest
from imdb_serving.messages import Array, Tensor
from imdb_serving.transports.rpc.framing import Frame
from imdb_serving.transports.rpc.headers import TensorHeader

TEXT = "utf8"
DTYPES = {name: np.dtype(code) for name, code in (
    ("int32", "<i4"), ("int64", "<i8"), ("float32", "<f4"), ("float64", "<f8"), (TEXT, "u1"),
)}  # fmt: skip
INT64, FLOAT32 = DTYPES["int64"], DTYPES["float32"]
DTYPE_NAMES = {DTYPES[name]: name for name in ("int32", "int64", "float32", "float64")}

Tensors = Sequence[Frame] | memoryview
"""What lies behind a message's header: a frame a tensor, or the body of a message in one piece."""


def cannot_send(name: str, values: Array) -> str:
    """Say why values cannot be sent whose type has no name on the wire."""
    return f"{name!r} is {values.dtype}; only {', '.join(DTYPES)} can be sent"


def decode_arrays(headers: Sequence[TensorHeader], source: Tensors) -> dict[str, Array]:
    """Return the values by name; raise `BadRequest` when the bytes are not what the headers say."""
    if type(source) is not memoryview:
        return _of_frames(headers, source)
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


def decode_tensors(headers: Sequence[TensorHeader], source: Tensors) -> Mapping[str, Tensor]:
    """Return the tensors by name, not yet checked; raise `BadRequest` as `decode_arrays` does."""
    arrays = decode_arrays(headers, source)
    return {header.name: Tensor(arrays[header.name], header.lengths, header.dtype == TEXT) for header in headers}


def _of_frames(headers: Sequence[TensorHeader], frames: Sequence[Frame]) -> dict[str, Array]:
    if len(headers) != len(frames):
        raise BadRequest(f"the header describes {len(headers)} tensors, {len(frames)} frames follow")
    arrays: dict[str, Array] = {}
    for header, frame in zip(headers, frames, strict=True):
        try:
            values: Array = np.ndarray(header.shape, DTYPES[header.dtype], frame)
        except (KeyError, TypeError, ValueError) as error:
            raise _misfit(header, len(frame), error) from error
        if values.nbytes != len(frame):
            raise _misfit(header, len(frame), None)
        arrays[header.name] = values
    if len(arrays) != len(headers):
        raise _same_name()
    return arrays


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
