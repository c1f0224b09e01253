"""What a cell is chosen by: the most throughput, the most under a limit of the p99, or the least CPU time a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from imdb_serving.errors import ConfigError

THROUGHPUT, P99, EFFICIENCY = "throughput", "p99", "efficiency"

RATE_ZONE = 0.10
"""How far from the best rate the most efficient cell may be, as a share of it."""

_LIMIT = re.compile(r"p99 ?[:=]? ?([0-9.]+) ?(ms|s)")


class Selection(NamedTuple):
    """What a cell is chosen by; `most_ms` is the limit of the p99."""

    by: Literal["throughput", "p99", "efficiency"] = "throughput"
    most_ms: float = 0.0

    def __str__(self) -> str:
        """Return the selection as a parameter file has it."""
        return f"p99: {self.most_ms:g}ms" if self.by == P99 else self.by


BY_THROUGHPUT = Selection()


def read_selection(value: str | Mapping[str, Any]) -> Selection:
    """Read `throughput`, `efficiency`, or a limit such as `p99: 20ms`, as text or as a mapping.

    Raises `ConfigError` for anything else.
    """
    words = value if isinstance(value, str) else ", ".join(f"{name}: {limit}" for name, limit in value.items())
    if words == THROUGHPUT:
        return BY_THROUGHPUT
    if words == EFFICIENCY:
        return Selection("efficiency")
    if found := _LIMIT.fullmatch(words.strip()):
        try:
            most_ms = float(found[1]) * (1000 if found[2] == "s" else 1)
        except ValueError:
            most_ms = 0.0
        if 0 < most_ms < 1e9:
            return Selection("p99", most_ms)
    raise ConfigError(f"select: expected throughput, efficiency or a limit such as p99: 20ms, got {words!r}")
