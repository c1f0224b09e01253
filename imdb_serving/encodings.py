"""Text from bytes as text editors write it: UTF-8, or what a byte-order mark says. It knows no file and no format."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator

MARK = "\ufeff"
"""A byte-order mark, decoded: it belongs to the encoding, not to the text."""

_BY_MARK = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode(data: bytes, errors: str = "strict") -> str:
    """Return the text without its byte-order mark; raise `UnicodeDecodeError` when it cannot be decoded.

    `errors` is what is done about bytes that are not UTF-8; the other encodings are strict.
    """
    for mark, encoding in _BY_MARK:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors if encoding == "utf-8" else "strict")
    return data.decode("utf-8", errors)


def lines(text: str) -> Iterator[str]:
    """Yield the lines without their ends, which are LF, CRLF or CR; no other character ends a line.

    Joined files have a byte-order mark at the beginning of a line, which is left out.
    """
    for line in io.StringIO(text, newline=None):
        yield line.removesuffix("\n").lstrip(MARK)
