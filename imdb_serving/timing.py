"""Stage timing: who stamps what, in nanoseconds of one clock.

Stamps are `time.perf_counter_ns()`. On Linux that clock is shared by all processes of one host, so a stamp taken by
the server can be subtracted from one taken by the client; what becomes of another host's is in `clocks.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from time import perf_counter_ns
from types import TracebackType

import msgspec

from imdb_serving.clocks import CLOCK_ID, ClockFilter, Exchange

CLIENT_STAGES = ("encode", "send", "queue", "parse", "handover", "op0", "op1", "op2", "reply", "decode")
"""The parts of `client_infer`, in the order in which a request passes them; RPC has no `parse` and no `handover`."""

WAYS, NETWORK = ("send", "reply"), "network"
"""The journeys, and what they are called together where the clocks of two hosts are too far off to tell them apart."""

STAGES = ("prepro", *CLIENT_STAGES, "postpro")
"""All parts of a request's `total`."""


_PR_SET_TIMERSLACK = 29


def wake_precisely() -> None:
    """Have Linux wake the calling thread when it asks for it, and not up to 50 µs later, which saves others power."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


class Stage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One timed step: its name, and when it began and ended (ns)."""

    name: str
    start_ns: int
    end_ns: int

    def __iter__(self) -> Iterator[str | int]:
        """Unpack as name, start, end."""
        return iter((self.name, self.start_ns, self.end_ns))


class Timeline(msgspec.Struct):
    """The stages of one request, appended in order, and until when its answer is of use (ns; 0: for ever).

    >>> timeline = Timeline()
    >>> with timeline.stage("op0"):
    ...     pass
    >>> [stage.name for stage in timeline.stages]
    ['op0']
    """

    stages: list[Stage] = []
    deadline_ns: int = 0
    _name: str = ""
    _start: int = 0

    def stage(self, name: str) -> Timeline:
        """Time the `with` block that follows under `name`. Stages do not nest, so the timeline is its own context."""
        self._name = name
        return self

    def add(self, name: str, start_ns: int, end_ns: int) -> None:
        """Append a stage whose stamps were taken elsewhere."""
        self.stages.append(Stage(name, start_ns, end_ns))

    def __enter__(self) -> None:
        """Stamp the start of the stage."""
        self._start = perf_counter_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stamp the end of the stage, also when it failed."""
        self.stages.append(Stage(self._name, self._start, perf_counter_ns()))


def client_stages(
    sent: tuple[int, int], server: list[Stage], received: tuple[int, int], clock: str, clocks: ClockFilter
) -> list[Stage]:
    """Join the client's and the server's stamps of one request into the stages of `client_infer`.

    `sent` is (encode start, encode end), `received` is (reply arrived, decoded), `server` begins with the stage
    `queue`; its stamps are of the named clock. On one host they tell the two journeys apart. Another host's are
    shifted by what `clocks` knows of it, this request included; where that is not quite so, no request arrives before
    it was sent, and no answer leaves after it has arrived.
    """
    encode_start, encode_end = sent
    arrived, decoded = received
    first, last = server[0].start_ns, server[-1].end_ns
    if clock != CLOCK_ID:
        clocks.learn(clock, Exchange(encode_end, first, last, arrived))
        shift = max(min(clocks.offset_ns, arrived - last), encode_end - first)
        server = [Stage(stage.name, stage.start_ns + shift, stage.end_ns + shift) for stage in server]
        first, last = first + shift, last + shift
    return [
        Stage("encode", encode_start, encode_end),
        Stage("send", encode_end, first),
        *server,
        Stage("reply", last, arrived),
        Stage("decode", arrived, decoded),
    ]
