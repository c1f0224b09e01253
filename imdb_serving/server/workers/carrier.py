"""What a worker knows of its carrier: how to read a request from bytes, and to answer it with bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from imdb_serving.protocol.framing import Frame
from imdb_serving.timing import Stage


class Question(msgspec.Struct, frozen=True, gc=False):
    """One whole request, as its carrier reads it: what is asked, in how many bytes, and how long it may take (ns).

    `request_id` is what an answer refers to.
    """

    content: Any
    size: int
    allowed_ns: int
    request_id: int


Outcome = tuple[int, bytes, Sequence[Stage]]
"""How a request ended: the answer's code, which is its place among `CODES`, its bytes, and its stages."""

encode_stages = msgspec.msgpack.Encoder().encode
decode_stages = msgspec.msgpack.Decoder(list[Stage]).decode


class Carrier(Protocol):
    """What the bytes on connections mean."""

    always_stamped: bool
    """Whether requests are worth reading the stamp of their arrival for, also while they are brief. Others count as
    received when the worker was given them, or when the supervisor saw that they wait."""

    def read(self, data: bytes) -> Question | None:
        """Return the prediction that `data` is from its first byte to its last; None for everything else."""

    def pack(self, message: Any) -> Frame:
        """Return a message that the supervisor has read as bytes for `open` in another process."""

    def open(self, message: Any) -> Question | None:
        """Return the prediction in a message that the supervisor has read; None for what it should not have passed.

        Within a process that is the message as it was submitted, else its bytes.
        """

    def missing(self, data: bytes) -> int:
        """Return how many bytes are missing of the request that begins with `data`; 0 if that cannot be told."""

    def answer(self, received_ns: int, content: Any) -> Outcome:
        """Answer; raise nothing."""

    def shed(self, content: Any) -> Outcome:
        """Return the same for a request whose time is too short."""

    def fingerprint(self, message: Any) -> bytes:
        """Return bytes that are equal for two requests that ask the same, whatever their ids and deadlines."""


MakeCarrier = Callable[[], Carrier]
"""Makes what one worker answers with; it may have `stage_names`."""
