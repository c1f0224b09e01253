"""How often a worker may come to nothing: the tries in a row, the pauses between them, and when a place is given up.

A try comes to nothing when the worker does not start, or dies idle before it has answered anything. A worker that dies
or hangs while working on a request does not count: any client could send such requests. What the machine lacks for the
moment (descriptors, processes, memory) is no fault of the worker either: a pause, and no count.
"""

from __future__ import annotations

from time import monotonic

from imdb_serving.workers.seats import Seat

MAX_TRIES = 5
PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0
PROVEN_SECONDS = 60.0
"""A worker that has lived so long is taken to be a sound one, even if nobody has asked it anything."""


class Tries:
    """The tries at one place. Used by one thread at a time: whoever replaces the worker of that place."""

    def __init__(self) -> None:
        """Begin with none."""
        self.failed = 0
        self.reason = ""
        self._refused = 0

    def ended(self, seat: Seat, how: str, *, at_work: bool) -> None:
        """Note that a worker that had been ready is gone, and whether it was working on a request."""
        self._refused = 0
        if seat.proven or monotonic() > seat.made + PROVEN_SECONDS:
            self.failed = 0
        elif not at_work:
            self._failed_again(f"it {how} before it had answered a request")

    def not_started(self) -> None:
        """Note that a worker could not be started."""
        self._refused = 0
        self._failed_again("it could not be started")

    def _failed_again(self, why: str) -> None:
        self.failed += 1
        self.reason = f"tried {self.failed} times in a row; the last time {why}"

    def refused(self) -> None:
        """Note that the machine gave nothing to start a worker with."""
        self._refused += 1

    @property
    def is_over(self) -> bool:
        """True once there were enough of them."""
        return self.failed >= MAX_TRIES

    @property
    def pause(self) -> float:
        """Seconds to wait before the next try: none when a sound worker died, and longer after each failure."""
        failures = self.failed + self._refused
        return min(PAUSE_SECONDS * 4 ** (failures - 1), MAX_PAUSE_SECONDS) if failures else 0.0
