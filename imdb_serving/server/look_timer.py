"""How often the supervisor looks after requests: often while some wait, seldom while none comes."""

from __future__ import annotations

TICK_SECONDS, CALM_SECONDS = 0.002, 0.01
"""From one look to the next: while requests wait, or may hold others up, and while none does."""

IDLE_SECONDS = 0.1
"""The same while no request comes."""

QUIET_LOOKS = 10
"""After so many looks at which nothing had happened it is taken that none comes."""

ARRIVALS_EVERY = 5
"""Of looks that follow one another at once, one of so many is also for arrivals."""


class LookTimer:
    """Told at each look what there was, asked when the next one is due. Times are in monotonic seconds."""

    def __init__(self) -> None:
        self._quiet = self._looks = self._turns = 0
        self._tick, self._next = TICK_SECONDS, 0.0

    @property
    def is_asleep(self) -> bool:
        """Whether workers shall wake the supervisor when they take a request."""
        return self._quiet >= QUIET_LOOKS

    @property
    def pause(self) -> float:
        """For how many seconds the supervisor may wait."""
        return IDLE_SECONDS if self.is_asleep else self._tick

    def is_due(self, now: float) -> bool:
        """Tell whether it is time for the next look."""
        return now >= self._next

    def begin(self, turns: int, *, idle: bool) -> bool:
        """Begin a look, at which `turns` requests had been taken, ever; `idle` is whether none waited or was at work.

        Return whether it is also for arrivals.
        """
        self._quiet = self._quiet + 1 if idle and turns == self._turns else 0
        self._turns = turns
        self._looks += 1
        return self._tick == CALM_SECONDS or not self._looks % ARRIVALS_EVERY

    def end(self, now: float, *, pressing: bool) -> None:
        """End it; `pressing` is whether requests wait or may hold others up."""
        self._tick = TICK_SECONDS if pressing else CALM_SECONDS
        self._next = now + self._tick
