"""What a server with workers says of itself when asked: who it is, and whether it can answer. No protocol."""

from __future__ import annotations

from dataclasses import replace

from imdb_serving.errors import ServerUnavailable
from imdb_serving.messages import ServerInfo
from imdb_serving.workers.pool import Pool


def introduce(info: ServerInfo, pool: Pool) -> ServerInfo:
    """Return what a server says of itself now; raise `ServerUnavailable` while no worker is there to answer."""
    ready, given_up = pool.count - pool.missing(), [f"worker {n}: {why}" for n, why in sorted(pool.given_up.items())]
    warnings = pool.quarantine.in_words()
    if not ready:
        why = "; ".join([*(given_up or [f"{pool.count} being replaced"]), *warnings])
        raise ServerUnavailable(f"no worker is there: {why}")
    return replace(info, ops=pool.stage_names, workers_ready=ready, given_up=tuple(given_up), warnings=warnings)
