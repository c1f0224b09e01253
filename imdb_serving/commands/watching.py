"""What a server shows of itself: its log, and its metrics on a port of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from imdb_serving.messages import ServerInfo
from imdb_serving.timing import Stage
from imdb_serving.transports.http.json_wire import parse_timing
from imdb_serving.transports.rpc import wire
from imdb_serving.workers.crew import Crew
from imdb_serving.workers.pool import Pool

if TYPE_CHECKING:
    from imdb_serving.commands.serve_options import ServeOptions

log = logging.getLogger(__name__)

TIMING = b"\r\nServer-Timing: "


def warn_strangers(endpoint: str, *, guarded: bool) -> None:
    """Warn of a server that others than this host's users can reach, and that asks nobody who they are."""
    scheme, _, rest = endpoint.partition("://")
    host = rest.partition("/")[0].rpartition(":")[0].strip("[]")
    if guarded or scheme in {"ipc", "socket+unix"} or host == "localhost":
        return
    with suppress(ValueError):
        if ip_address(host).is_loopback:
            return
    remedy = {"http": "--token-file", "socket": "tcp:// with keys (imdb-serving keys)"}.get(
        scheme, "--server-key and --client-keys (imdb-serving keys)"
    )
    log.warning("anybody who can reach %s can use this server; to choose who, see %s", endpoint, remedy)


def rpc_stages(frames: Sequence[bytes]) -> Sequence[Stage]:
    """Return the stages in an RPC answer's frames."""
    opened = wire.open_frames(frames)
    answer = wire.decode_answer(opened.header, opened.tensors)[1]
    return answer.stages() if isinstance(answer, wire.Answered) else ()


def http_stages(response: bytes) -> Sequence[Stage]:
    """Return the stages in the head of an HTTP response."""
    timing = response.partition(TIMING)[2].partition(b"\r\n")[0]
    return parse_timing(timing.decode("latin-1"))[0]


@contextmanager
def metrics_port(
    options: ServeOptions, crew: Crew, pool: Pool | None, info: ServerInfo, stages_of: Any
) -> Iterator[str]:
    """Tell metrics while the block lasts, if asked to; give their address, or an empty text."""
    if options.metrics_port is None:
        yield ""
        return
    from imdb_serving.transports.metrics import MetricsPort, ServerCollector, StageTimes

    times = StageTimes(stages_of)
    crew.observed = times.outcomes
    port = MetricsPort(options.host, options.metrics_port, [ServerCollector(crew, pool, info, times)], times)
    try:
        yield port.url
    finally:
        port.close()
