"""Stage timing: who stamps what, in nanoseconds of one clock.

Stamps are `time.perf_counter_ns()`. On Linux that clock is shared by all processes of one host, so a stamp taken by
the server can be subtracted from one taken by the client; `CLOCK_ID` tells whether two stamps share a host.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType

import msgspec

CLIENT_STAGES = ("encode", "send", "queue", "parse", "handover", "op0", "op1", "op2", "reply", "decode")
"""The parts of `client_infer`, in the order in which a request passes them; RPC has no `parse` and no `handover`."""

STAGES = ("prepro", *CLIENT_STAGES, "postpro")
"""All parts of a request's `total`."""


def _clock_id() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return boot.read_text(encoding="ascii").strip()
    except OSError:  # not Linux: the host's name is the best there is
        return platform.node()


CLOCK_ID = _clock_id()

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
    sent: tuple[int, int], server: list[Stage], received: tuple[int, int], same_host: bool
) -> list[Stage]:
    """Join the client's and the server's stamps of one request into the stages of `client_infer`.

    `sent` is (encode start, encode end), `received` is (reply arrived, decoded), `server` begins with the stage
    `queue`. On one host the two journeys are told apart by the stamps; between hosts only durations travel, so what
    the server cannot account for is split evenly between `send` and `reply`, as NTP does.
    """
    encode_start, encode_end = sent
    arrived, decoded = received
    first, last = server[0].start_ns, server[-1].end_ns
    if not same_host:
        shift = encode_end + (arrived - encode_end - (last - first)) // 2 - first
        server = [Stage(stage.name, stage.start_ns + shift, stage.end_ns + shift) for stage in server]
        first, last = first + shift, last + shift
    return [
        Stage("encode", encode_start, encode_end),
        Stage("send", encode_end, first),
        *server,
        Stage("reply", last, arrived),
        Stage("decode", arrived, decoded),
    ]
