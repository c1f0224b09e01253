"""What becomes of workers that die, hang or do not start, and of the requests that they were at. No I/O.

A try to start a worker fails when it does not start, or dies idle before it has answered anything; after several failed
tries in a row its place is given up. A worker that dies or hangs at a request does not count, because any client could
send such requests, and neither does a shortage of the machine (descriptors, processes, memory). Requests that killed
workers are in quarantine for a while, by their fingerprints: they are refused, and what their senders send waits behind
the rest.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic

from imdb_serving.errors import RemoteFailure

QUARANTINE_SECONDS = 60.0
"""How long a request that killed two workers is refused."""

MAX_FINGERPRINTS = 1000
KILLS = 2


class WorkersDied(RemoteFailure):
    """Two workers died while working on one request, or did so lately on the same one."""


class Quarantine:
    """The requests that killed `KILLS` workers lately. Used by all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kills: dict[bytes, tuple[int, float]] = {}  # fingerprint: workers killed, end of the quarantine
        self._deaths: deque[float] = deque(maxlen=MAX_FINGERPRINTS)
        self.active = False
        """True while a request is refused: only then must requests be compared."""

    def note_death(self) -> None:
        """Count a worker that died or hung while working on a request."""
        with self._lock:
            self._deaths.append(monotonic())

    def add(self, fingerprint: bytes, kills: int) -> None:
        """Note that a request killed so many workers (more)."""
        with self._lock:
            known = self._kills.pop(fingerprint, (0, 0.0))[0]
            if len(self._kills) >= MAX_FINGERPRINTS:
                del self._kills[next(iter(self._kills))]
            self._kills[fingerprint] = known + kills, monotonic() + QUARANTINE_SECONDS
            self._forget_old()

    def seconds_left(self, fingerprint: bytes) -> float:
        """Return for how many more seconds a request is refused: 0 when it is not."""
        with self._lock:
            self._forget_old()
            kills, until = self._kills.get(fingerprint, (0, 0.0))
        return until - monotonic() if kills >= KILLS else 0.0

    def is_active(self) -> bool:
        """Tell whether a request is refused now."""
        if self.active:
            with self._lock:
                self._forget_old()
        return self.active

    def _forget_old(self) -> None:
        now = monotonic()
        for fingerprint in [each for each, (_, until) in self._kills.items() if until < now]:
            del self._kills[fingerprint]
        self.active = any(kills >= KILLS for kills, _ in self._kills.values())

    def in_words(self) -> tuple[str, ...]:
        """Return what readiness says of it: nothing while all is well."""
        with self._lock:
            self._forget_old()
            now = monotonic()
            deaths = sum(at > now - QUARANTINE_SECONDS for at in self._deaths)
            refused = sum(kills >= KILLS for kills, _ in self._kills.values())
        words = []
        if deaths:
            words.append(
                f"workers that died or hung while working on a request, last {QUARANTINE_SECONDS:.0f} s: {deaths}"
            )
        if refused:
            words.append(f"requests refused because they killed {KILLS} workers: {refused}")
        return tuple(words)


MAX_TRIES = 5
PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0
PROVEN_SECONDS = 60.0
"""A worker that has lived so long is taken to be a sound one, even if nobody has asked it anything."""


class RestartPolicy:
    """The tries at one place. Used by one thread at a time: whoever replaces the worker of that place."""

    def __init__(self) -> None:
        self.failed = 0
        self.reason = ""
        self._refused = 0

    def ended(self, made: float, how: str, *, proven: bool, at_work: bool) -> None:
        """Note that a worker has ended that had been ready: when it was made (monotonic seconds), and how it ended.

        It is `proven` if it had answered a request, and was `at_work` if it was working on one.
        """
        self._refused = 0
        if proven or monotonic() > made + PROVEN_SECONDS:
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
