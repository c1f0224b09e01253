"""A failed request as bytes that are ready to send, marked with the failure's code for the counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CODES = ("", "bad_request", "unavailable", "overloaded", "timeout", "unauthorized", "not_implemented", "internal")
"""Between processes a code is its place here; the first one is that of an answer."""


class FailedFrames(list[bytes]):
    """RPC's frames of a failure."""

    code = "internal"


def code_of(outcome: object) -> str:
    """Return the code of a failure, or an empty text."""
    return getattr(outcome, "code", "")


def number_of(outcome: object) -> int:
    """Return what `code_of` is between processes."""
    code = code_of(outcome)
    return CODES.index(code) if code in CODES else len(CODES) - 1


def marked(frames: Sequence[Any], number: int) -> Sequence[Any]:
    """Return frames as what they are, from the number that came with them."""
    if not 0 < number < len(CODES):
        return frames
    failed = FailedFrames(frames)
    failed.code = CODES[number]
    return failed
