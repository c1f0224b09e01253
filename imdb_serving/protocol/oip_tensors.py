"""Tensors of the Open Inference Protocol v2 as bytes, as Triton's extension of binary tensors has them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON; binary tensors follow."""

BYTES = "BYTES"
TYPES: dict[str, str] = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
"""The names of the protocol's types, and numpy's of the same, little-endian."""


def text_bytes(texts: Sequence[bytes]) -> bytes:
    """Return texts as a tensor's bytes: each behind its length."""
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def texts_in(data: bytes | memoryview) -> list[bytes]:
    """Return the texts in a tensor's bytes; raise `ValueError` when these are none."""
    texts, at = [], 0
    while at < len(data):
        if len(data) < at + 4:
            raise ValueError("a text's length is cut short")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4 + length
        if at > len(data):
            raise ValueError(f"a text of {length} bytes is cut short")
        texts.append(bytes(data[at - length : at]))
    return texts


def tensor_values(datatype: str, data: bytes) -> list[Any]:
    """Return the values in the bytes of a tensor; raise `KeyError` or `ValueError` when there are none."""
    if datatype == BYTES:
        return [text.decode("utf-8", "replace") for text in texts_in(data)]
    values: list[Any] = np.frombuffer(data, TYPES[datatype]).tolist()
    return values
