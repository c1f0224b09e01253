"""The two published line formats, `N id1 … idN label` and `text | label`, and decoding of text files (UTF-8, BOMs)."""

from __future__ import annotations

import codecs
import io
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imdb_serving.errors import DataError

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


LineFormat = Literal["ids", "text"]

EXPECTED: dict[LineFormat, str] = {
    "ids": "'N id1 ... idN label': a count N, exactly N word ids, and the label 0 or 1, separated by spaces",
    "text": "'text | label': the review, a bar, and the label 0 or 1",
}


UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class Line:
    """One numbered, not blank line of a data file, or a sample that was made into one, in the format `kind`.

    It ends with one of `classes` labels; 0 for a line without a label, which no file of the published formats has.
    """

    source: str
    number: int
    content: str
    classes: int = 2
    kind: LineFormat = "ids"

    @property
    def label(self) -> int:
        """The label at the end of a line that was found sound; -1 where there is none."""
        if not self.classes:
            return UNLABELLED
        content = self.content.rstrip()
        digits = content[len(content.rstrip(string.digits)) :]  # in a client's loop: a pattern would look at each place
        return int(digits) if digits else UNLABELLED

    def refuse(self, kind: LineFormat, why: str) -> DataError:
        """Return the error for this line: file, line number, what was found and what was expected."""
        return DataError(f"{self.source}:{self.number}: {why}; expected {EXPECTED[kind]}")


@dataclass(frozen=True, slots=True)
class Example:
    """One review: its text or its word ids, and its class, 1 for positive, 0 for negative; -1 where none is known."""

    label: int
    text: str | None = None
    words: NDArray[np.int64] | None = None


_BROKEN_UTF8 = re.compile("[\udc80-\udcff]")


def read_lines(data: bytes, source: str) -> list[Line]:
    """Return a file's non-blank lines with their numbers; raise `DataError` when there are none.

    Lines end in LF, CRLF or CR, and a byte-order mark says how the text is encoded; without one it is UTF-8.
    Bytes that are not UTF-8 are kept as lone surrogates, so that it is the parser who refuses that one line.
    """
    try:
        text = decode(data, errors="surrogateescape")
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not the {error.encoding} that its byte-order mark says it is") from error
    numbered = enumerate(lines(text), start=1)
    found = [Line(source, number, content) for number, content in numbered if content.strip()]
    if not found:
        raise DataError(f"{source} holds no review")
    return found


def detect_format(lines: Sequence[Line]) -> LineFormat:
    """Tell the format of a file by its first line; raise `DataError` when no line of it is in one of the two."""
    first = lines[0]
    if not any(has_label(line) or _IDS_ALONE.fullmatch(line.content) for line in lines):
        raise DataError(
            f"{first.source} is in no format that is read here, as CSV and JSON are not; a data file has one review a "
            f"line, in one of two formats: {EXPECTED['ids']}; or {EXPECTED['text']}"
        )
    return "text" if "|" in first.content else "ids"


_IDS_ALONE = re.compile(r"[0-9\s]+", re.ASCII)


def has_label(line: Line) -> bool:
    """Tell whether a line of the text format ends with its label."""
    return line.content.rpartition("|")[2].strip() in {"0", "1"}


def parse(line: Line, kind: LineFormat) -> Example:
    """Read one line; raise `DataError` with file, line number and what was expected when it is malformed."""
    return _parse_ids(line) if kind == "ids" else _parse_text(line)


def looks_like_ids(line: Line) -> bool:
    """Tell whether a line says how many ids it has, and has as many and a label."""
    if not _IDS_ALONE.fullmatch(line.content):
        return False
    fields = line.content.split()
    return len(fields) > 1 and fields[0] == str(len(fields) - 2) and fields[-1] in {"0", "1"}


_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_DIGITS_AND_SPACE = b"0123456789 \t\n\r\f\v"
_TOO_LARGE = 10**18


def _parse_ids(line: Line) -> Example:
    content = line.content
    if not content.isascii() or content.encode("ascii").translate(None, _DIGITS_AND_SPACE):
        raise _refuse_ids(line)
    values = np.fromstring(content, dtype=np.int64, sep=" ")
    if not len(values) or values.item(values.argmax()) >= _TOO_LARGE:
        raise _refuse_ids(line)
    count = values.item(0)
    if not line.classes:
        return Example(label=UNLABELLED, words=values[1:])
    label = values.item(-1)
    if len(values) != count + 2:
        raise line.refuse("ids", f"{max(len(values) - 2, 0)} word ids where N says {count}")
    if label >= line.classes:
        raise line.refuse("ids", f"the label is '{label}'")
    return Example(label=label, words=values[1:-1])


def _refuse_ids(line: Line) -> DataError:
    # White space beyond ASCII separates words for str.split, and is no separator of this format.
    fields = line.content.split()
    wrong = next((field for field in fields if not _NUMBER.fullmatch(field)), line.content)
    return line.refuse("ids", f"{wrong[:40]!r} is not a whole number of at least 0")


def _parse_text(line: Line) -> Example:
    if not line.classes:
        return Example(label=UNLABELLED, text=line.content)
    text, bar, label = line.content.rpartition("|")
    if not bar:
        raise line.refuse("text", "no bar")
    if not text.isascii() and _BROKEN_UTF8.search(text):
        raise line.refuse("text", "the review is not valid UTF-8")
    return Example(label=_label(label.strip(), line), text=text.strip())


def _label(field: str, line: Line) -> int:
    if not _NUMBER.fullmatch(field) or int(field) >= line.classes:
        raise line.refuse("text", f"the label is {field[:40]!r}")
    return int(field)


def format_ids(words: Sequence[int] | NDArray[np.int64], label: int) -> str:
    """Write one review as `N id1 … idN label`, without the label where none is known."""
    known = [label] if label != UNLABELLED else []
    return " ".join(str(value) for value in (len(words), *map(int, words), *known))


def format_text(text: str, label: int) -> str:
    """Write one review as `text | label`; line breaks inside the review become spaces."""
    return f"{' '.join(text.splitlines())} | {label}"
