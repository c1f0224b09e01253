"""Clocks of other hosts: whose stamps can be subtracted from one's own, and how far another host's clock is off.

Owns nothing but arithmetic on stamps, which are `time.perf_counter_ns()` of some host; knows no message and no stage.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import NamedTuple

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
