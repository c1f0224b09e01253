"""How fast the requests that wait are taken, and so which can be answered in time. It knows times and counts only.

Only while requests wait is the pace of their being taken that of the server; else it is that of the clients. So it is
measured then, over the last few dozen requests: how many were taken, in how many seconds, by how many threads at work.
"""

from __future__ import annotations

MAX_COUNT = 64
"""Requests over which the pace is measured; older ones count half as much each time there are as many."""

FEW = 4
"""Below so many requests the pace is not known."""

REST_SECONDS = 5.0
"""After so long without one that waits, what was measured says nothing any more."""

WAIT_SHARE = 0.5
WHOLE_SHARE = 0.9
"""How much of its time a request may wait, and how much may pass until it is answered, to be let in: what is let in
shall be answered in time, also when the estimate is half wrong."""


class Backlog:
    """Told of by the keeper at every tick, asked about each request that comes or is taken while others wait."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.pace = 0.0
        """Seconds from one request's being taken to the next one's, while requests wait; 0 when it is not known."""

        self.service = 0.0
        """Seconds that a request is at work, on average; 0 when it is not known."""

        self._count = self._seconds = self._busy_seconds = 0.0
        self._looked = self._waited = 0.0
        self._taken = 0
        self._was_waiting = False

    def look(self, now: float, taken: int, busy: int, waiting: bool) -> None:
        """Take note, at `now` (seconds), of how many were taken in all, how many threads are at work, if any waits."""
        seconds, count = now - self._looked, taken - self._taken
        self._looked, self._taken = now, taken
        if waiting:
            self._waited = now
        if waiting and self._was_waiting:
            self._count += count
            self._seconds += seconds
            self._busy_seconds += seconds * busy
            if self._count > MAX_COUNT:
                self._count, self._seconds, self._busy_seconds = (
                    value / 2 for value in (self._count, self._seconds, self._busy_seconds)
                )
            self._tell()
        elif now - self._waited > REST_SECONDS and self.pace:
            self._count = self._seconds = self._busy_seconds = 0.0
            self._tell()
        self._was_waiting = waiting

    def _tell(self) -> None:
        known = self._count >= FEW
        self.pace = self._seconds / self._count if known else 0.0
        self.service = self._busy_seconds / self._count if known else 0.0

    def is_hopeless(self, waiting: int, seconds: float) -> bool:
        """Tell whether a request behind so many others would probably not be answered within `seconds`."""
        wait = waiting * self.pace
        return wait > WAIT_SHARE * seconds or wait + self.service > WHOLE_SHARE * seconds
