"""How long a request leaves the interpreter to others: its longest step, told by who knows the steps to who asks.

A step that computes without Python's lock, or sleeps, is where a second thread is of use. The rest of a request holds
the lock, however long it takes. Both talk about the request that their own thread is at.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from imdb_serving.timing import Stage


class _Asked(threading.local):
    asked = False
    longest_ns: int | None = None


here = _Asked()
"""Whether this thread was asked, and what was told: who has nothing to tell looks at `asked` first."""


def ask() -> None:
    """Have the next `tell` of this thread be heard."""
    here.asked, here.longest_ns = True, None


def tell(steps: Sequence[Stage]) -> None:
    """Say how long a request's steps took, if that was asked."""
    if here.asked:
        here.asked = False
        here.longest_ns = max((step.end_ns - step.start_ns for step in steps), default=0)


def told() -> int | None:
    """Return the longest step in nanoseconds, or None when nobody told."""
    return here.longest_ns
