"""The client's fast path: a request for one review as word ids, and its answer with one output, as nearly all are.

From one such request to the next only the id, the length and the words change: what lies between is encoded once and
kept. Nothing else is known here: what is not as expected is None, and then for `wire`. No I/O.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

import msgspec
import numpy as np

from imdb_serving.messages import Request
from imdb_serving.transports.rpc.framing import MAX_HEADER_BYTES, PREFIX, PREFIX_BYTES, VERSION, Frame, pack
from imdb_serving.transports.rpc.headers import Predict, ReceivedAnswer, TensorHeader
from imdb_serving.transports.rpc.tensors import DTYPES, INT64
from imdb_serving.transports.rpc.wire import UNREADABLE, Answered, decode_answer_header

# Encoded these are cf 7f.. and ce ff..; no text can hold them, for they are no UTF-8.
ANY_ID, ANY_LENGTH = (1 << 63) - 1, (1 << 32) - 1
ID, LENGTH, BODY_BYTES = struct.Struct(">Q"), struct.Struct(">I"), struct.Struct("<I")

_unpack_prefix, _pack_body_bytes = PREFIX.unpack_from, BODY_BYTES.pack


@functools.lru_cache(maxsize=64)
def _prepare(name: str, fetch: tuple[str, ...], deadline_ms: float) -> tuple[Any, ...] | None:
    """Return the parts of a request's header between its numbers, and what joins them; None where that is not clear.

    Numbers are as long as MessagePack has them, whatever their value.
    """
    words = TensorHeader(name, "int64", (ANY_LENGTH,), (ANY_LENGTH,))
    message = pack(msgspec.msgpack.encode(Predict(ANY_ID, deadline_ms, 1, fetch, [words])), ())
    begun, *rest = message.split(ID.pack(ANY_ID))
    behind = rest[0].split(LENGTH.pack(ANY_LENGTH)) if len(rest) == 1 else []
    if len(behind) != 3:
        return None
    parts = [begun[: PREFIX_BYTES - BODY_BYTES.size], begun[PREFIX_BYTES:], *behind]
    places = [f"{len(part)}s" for part in parts]
    whole = struct.Struct(f">{places[0]}{BODY_BYTES.size}s{places[1]}Q{places[2]}I{places[3]}I{places[4]}")
    return whole.pack, *parts


def encode_request(request: Request, request_id: int, deadline_ms: float) -> bytes | None:
    """Return a request in one piece: the same as of `wire.encode_request`, but for the length of its numbers."""
    feed = request.feed
    if len(feed) == request.samples == 1:
        ((name, tensor),) = feed.items()
        values = tensor.values
        if values.dtype is INT64 and tensor.lengths == values.shape:
            try:
                prepared = _prepare(name, request.fetch, deadline_ms)
            except TypeError:  # names that are none; the server says so
                return None
            if prepared is not None:
                join, prefix, begun, before, between, behind = prepared
                count = len(values)
                body_bytes = _pack_body_bytes(count * 8)
                header = join(prefix, body_bytes, begun, request_id, before, count, between, count, behind)
                return header + values.tobytes()  # type: ignore[no-any-return]
    return None


def decode_answer(data: Frame | None, request_id: int) -> Answered | None:
    """Return the answer to a request, when that is what `data` is from its first byte to its last."""
    if data is None or len(data) < PREFIX_BYTES:
        return None
    version, header_bytes, body_bytes = _unpack_prefix(data)
    begin = PREFIX_BYTES + (header_bytes + 7 & ~7)
    if begin + body_bytes != len(data) or version != VERSION or header_bytes > MAX_HEADER_BYTES:
        return None
    try:
        answer = decode_answer_header(memoryview(data)[PREFIX_BYTES : PREFIX_BYTES + header_bytes])
        if type(answer) is ReceivedAnswer and answer.id == request_id and len(answer.fetch) == 1:
            output = answer.fetch[0]
            values: Any = np.ndarray(output.shape, DTYPES[output.dtype], data, begin)
            if values.nbytes + 7 & ~7 == body_bytes:
                return Answered({output.name: values}, answer.stages, answer.clock)
    except (*UNREADABLE, KeyError, TypeError):
        pass
    return None
