"""Stamps of one clock: the stages of a request, and the offset of another host's clock with its bound.

Stamps are `time.perf_counter_ns()`. On Linux all processes of a host share that clock, so a stamp taken by the server
can be subtracted from one taken by the client.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import NamedTuple

import msgspec

FIRST_TIME_NAMESPACE = "time:[4026531834]"
"""Linux gives the time namespace that a host starts with this name (PROC_TIME_INIT_INO)."""

DRIFT = 50e-6
"""How much faster or slower than another a clock may run: two quartzes that nobody corrects."""


def _clock_id() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        name = boot.read_text(encoding="ascii").strip()
    except OSError:  # not Linux: the host's name is the best there is
        return platform.node()
    space = ""
    with suppress(OSError):  # Linux before 5.6 has one time for all
        space = os.readlink("/proc/self/ns/time")  # noqa: PTH115 - no file is behind this link
    return name if space in {"", FIRST_TIME_NAMESPACE} else f"{name}/{space}"


CLOCK_ID = _clock_id()
"""Names this process's clock: on Linux that of the host since its start, which its processes share, containers
included, unless their time namespace is one of their own."""


class Exchange(NamedTuple):
    """Four stamps of a request and its answer (ns): the outer two of one's own clock, the inner two of another."""

    sent_ns: int
    arrived_there_ns: int
    left_there_ns: int
    received_ns: int

    @property
    def offset_ns(self) -> int:
        """What to add to the other clock's stamps, if both journeys took as long."""
        return (self.sent_ns - self.arrived_there_ns + self.received_ns - self.left_there_ns) // 2

    @property
    def bound_ns(self) -> int:
        """How far from the truth that can be: half of what both journeys took, were one of them all of it.

        What the clocks drift apart meanwhile comes on top.
        """
        whole = self.received_ns - self.sent_ns
        journeys = max(0, whole - (self.left_there_ns - self.arrived_there_ns))
        return -(-journeys // 2) + ceil(whole * DRIFT)


class ClockFilter:
    """The offset of one other clock, by the minimum filter, as NTP has it (RFC 5905, section 10).

    Of all exchanges that one counts whose journeys took least time, for those bound the error. An older one's bound
    grows by what two clocks may drift apart meanwhile (`DRIFT`).

    >>> clocks = ClockFilter()
    >>> clocks.learn("there", Exchange(100, 1_000_050, 1_000_060, 170))  # 60 ns on the way
    >>> clocks.learn("there", Exchange(200, 1_000_105, 1_000_115, 220))  # 10 ns on the way: believed instead
    >>> clocks.offset_ns, clocks.bound_ns(220)
    (-999900, 6)
    """

    __slots__ = ("_at_ns", "_bound_ns", "_clock", "offset_ns")

    def __init__(self) -> None:
        self._clock = CLOCK_ID
        self.offset_ns = self._bound_ns = self._at_ns = 0

    def learn(self, clock: str, exchange: Exchange) -> None:
        """Take an exchange with another clock, of that name, into account."""
        bound, now = exchange.bound_ns, exchange.received_ns
        if clock != self._clock or bound <= self.bound_ns(now):
            self._clock, self.offset_ns, self._bound_ns, self._at_ns = clock, exchange.offset_ns, bound, now

    def bound_ns(self, at_ns: int) -> int:
        """Return how far the offset can be from the truth at a moment of one's own clock; 0 before any exchange."""
        return self._bound_ns + int(abs(at_ns - self._at_ns) * DRIFT) if self._clock != CLOCK_ID else 0


CLIENT_STAGES = ("encode", "send", "queue", "parse", "handover", "op0", "op1", "op2", "reply", "decode")
"""The parts of `client_infer`, in the order in which a request passes them; RPC has no `parse` and no `handover`."""

WAYS, NETWORK = ("send", "reply"), "network"
"""The journeys, and what they are called together where the clocks of two hosts are too far off to tell them apart."""

REMOTE = "remote"
"""All between a request's last byte and its answer's, where a server of someone else tells no more."""

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
