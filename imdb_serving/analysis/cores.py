"""What a server gives on cores of its own, more than it was measured on, from the CPU time of its requests.

That time is what does not depend on the number of cores and processes (`make growth` measures it), so the requests a
second follow: as many as the cores have time for, and no more than the one process has time for that all must pass.
"""

from __future__ import annotations

from typing import NamedTuple

ENGINE_OP = "op1"
"""The stage in which the engine runs."""

MANY_INTAKES = ("socket", "flask")
"""The modes in which every process of a server takes requests in; in the others one does, for all."""


class CpuTime(NamedTuple):
    """The CPU time of a request in a server, in us: all of it, and what of it one process does for all requests."""

    whole_us: float
    intake_us: float = 0.0


def cpu_time(mode: str, whole_us: float, engine_us: float) -> CpuTime:
    """Return the CPU time of a request in a mode; where one process takes all in, it does no more than what is left."""
    return CpuTime(whole_us, 0.0 if mode in MANY_INTAKES else max(0.0, whole_us - engine_us))


def greatest_rate(cores: float, cpu: CpuTime) -> float:
    """Return the requests a second that so many cores have time for."""
    rate = cores * 1e6 / cpu.whole_us
    return min(rate, 1e6 / cpu.intake_us) if cpu.intake_us else rate
