"""Requests that killed workers, and the clients that sent them: what is refused for a while, and what waits behind.

Works on fingerprints and times; knows no request and no worker.
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
