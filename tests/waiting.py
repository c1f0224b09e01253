"""How tests wait: until something is seen, and never without a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def wait_until(seen: Callable[[], Seen], seconds: float = 8.0) -> Seen:
    """Return what `seen` returns once that is true, or its last value after so many seconds: assert it."""
    deadline = time.monotonic() + seconds
    while not (value := seen()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value
