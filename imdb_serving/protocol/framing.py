"""A message in one piece: the format on plain sockets, and in ZeroMQ's single frames. No I/O; headers are opaque."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

from imdb_serving.errors import BadRequest
from imdb_serving.messages import MAX_FEEDS, Array

Frame = bytes | bytearray | memoryview

PROTOCOL = b"imdb-serving/1"
MAX_HEADER_BYTES = 1 << 20
MAX_FRAMES = 2 + MAX_FEEDS
"""Of a message in frames: version, header, and one a feed."""

SMALL_BYTES = 1 << 20
"""Up to here a server reads every message, and says so if it is above its limit; a larger one may end a connection."""

MAX_BYTES = (1 << 32) + MAX_HEADER_BYTES
PREFIX = struct.Struct("<16sII")
PREFIX_BYTES = PREFIX.size
VERSION = PROTOCOL + bytes(16 - len(PROTOCOL))
PADDING = [bytes(count) for count in range(8)]
pack_prefix, _unpack_prefix = PREFIX.pack, PREFIX.unpack_from


def pack(header: bytes, arrays: Sequence[Array]) -> bytes:
    """Return a message in one piece."""
    body = b""
    if arrays:
        body = arrays[0].tobytes()
        if len(arrays) > 1:
            body = b"".join([data + PADDING[-len(data) & 7] for data in (array.tobytes() for array in arrays)])
        elif len(body) & 7:
            body += PADDING[-len(body) & 7]
    return pack_prefix(VERSION, len(header), len(body)) + header + PADDING[-len(header) & 7] + body


def join_parts(header: Frame, tensors: Sequence[Frame]) -> bytes:
    """Return a message that came in several frames in one piece."""
    parts = [part for frame in tensors for part in (frame, PADDING[-len(frame) & 7])]
    prefix = pack_prefix(VERSION, len(header), sum(map(len, parts)))
    return b"".join([prefix, header, PADDING[-len(header) & 7], *parts])


def is_piece(frame: Frame) -> bool:
    """Tell whether a frame begins as a message in one piece does."""
    return frame[:16] == VERSION


Piece = tuple[memoryview, memoryview, int]
"""A whole message: its header and its body, as views, and its size in bytes."""


def unpack(begun: Frame, max_bytes: int = MAX_BYTES) -> Piece | None:
    """Return the message that `begun` begins with, or None while bytes of it are missing.

    Raises `BadRequest` as soon as it can be told that it is no message, or one of more than `max_bytes`.
    """
    if len(begun) < PREFIX_BYTES:
        return None
    version, header_bytes, body_bytes = _unpack_prefix(begun)
    begin = PREFIX_BYTES + (header_bytes + 7 & ~7)
    size = begin + body_bytes
    if version != VERSION or header_bytes > MAX_HEADER_BYTES or size > max_bytes:
        raise _unreadable(version, header_bytes, size, max_bytes)
    if size > len(begun):
        return None
    view = memoryview(begun)
    return view[PREFIX_BYTES : PREFIX_BYTES + header_bytes], view[begin:size], size


def unpack_whole(data: Frame, max_bytes: int = MAX_BYTES) -> Piece | None:
    """Return the message that `data` is from its first byte to its last, or None when that is not what it is."""
    if len(data) < PREFIX_BYTES:
        return None
    version, header_bytes, body_bytes = _unpack_prefix(data)
    begin = PREFIX_BYTES + (header_bytes + 7 & ~7)
    size = begin + body_bytes
    if size != len(data) or version != VERSION or header_bytes > MAX_HEADER_BYTES or size > max_bytes:
        return None
    view = memoryview(data)
    return view[PREFIX_BYTES : PREFIX_BYTES + header_bytes], view[begin:], size


def missing(begun: Frame) -> int:
    """Return how many bytes are missing of the message that begins with `begun`, as far as its prefix says."""
    if len(begun) < PREFIX_BYTES:
        return PREFIX_BYTES - len(begun)
    _, header_bytes, body_bytes = _unpack_prefix(begun)
    size: int = PREFIX_BYTES + (header_bytes + 7 & ~7) + body_bytes
    return size - len(begun)


def _unreadable(version: bytes, header_bytes: int, size: int, max_bytes: int) -> BadRequest:
    if version != VERSION:
        return unknown_version(version)
    if header_bytes > MAX_HEADER_BYTES:
        return BadRequest(f"the header has {header_bytes} bytes, at most {MAX_HEADER_BYTES} are read")
    return too_large(size, max_bytes)


def unknown_version(version: bytes) -> BadRequest:
    """Return the refusal of what does not begin as a message of this protocol does."""
    return BadRequest(f"unknown protocol {version.rstrip(bytes(1))!r}; this end speaks {PROTOCOL.decode()}")


def too_large(size: int, max_bytes: int) -> BadRequest:
    """Return the refusal of a message beyond the limit."""
    return BadRequest(f"the message has {size} bytes, this server takes at most {max_bytes}; send smaller batches")


def fingerprint_of(frames: Sequence[Frame]) -> bytes:
    """Return 16 bytes that are equal for equal frames."""
    digest = blake2b(digest_size=16)
    for frame in frames:
        digest.update(len(frame).to_bytes(8, "little"))
        digest.update(frame)
    return digest.digest()
