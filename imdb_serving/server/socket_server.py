"""The server over plain sockets: RPC's messages in one piece, on TCP or a Unix path."""

from __future__ import annotations

import functools
import logging
import select
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from imdb_serving.config import MAX_MESSAGE_BYTES
from imdb_serving.errors import BadRequest, ServerStartError
from imdb_serving.messages import Handler, ServerInfo
from imdb_serving.processes import Cleanup
from imdb_serving.protocol.endpoints import socket_address, socket_endpoint
from imdb_serving.server.lending import LendingListener
from imdb_serving.server.ready_set import ReadySet
from imdb_serving.server.rpc_requests import RequestDecoder
from imdb_serving.server.scoreboard import Scoreboard
from imdb_serving.server.serving_units import ServingUnits
from imdb_serving.server.startup import listen, listen_at
from imdb_serving.server.stream_server import StreamServer
from imdb_serving.server.worker import nothing_yet

log = logging.getLogger(__name__)


def open_socket(
    endpoint: str, decoder: RequestDecoder, ready: ReadySet, board: Scoreboard, lowest: int
) -> LendingListener:
    """Listen at an endpoint; raise `ServerStartError` when it cannot be had."""
    try:
        address = socket_address(endpoint)
    except BadRequest as error:
        raise ServerStartError(str(error)) from error
    if address.path:
        listening = listen_at(address.path)
        return LendingListener(listening, endpoint, decoder, Cleanup(address.path).close, ready, board, lowest)
    listening = listen(address.host, address.port)
    at = socket_endpoint(*listening.getsockname()[:2])
    return LendingListener(listening, at, decoder, lambda: None, ready, board, lowest)


def socket_server(
    endpoint: str,
    make_handler: Callable[[], Handler] | None,
    workers: int,
    processes: int,
    describe: Callable[[str, int], ServerInfo],
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    preload: Sequence[str] = (),
    **options: Any,
) -> StreamServer:
    """Return a server of `socket://` or `socket+unix://` with so many workers, in `processes` processes.

    With 0 they are threads of this process. What makes handlers may come later, by `set_handler`, in `prepare`.
    """
    if processes and not hasattr(select, "epoll"):
        log.warning("this system has no epoll: the workers are threads of one process, not %d processes", processes)
        processes, describe = 0, functools.partial(_as_threads, describe)
    units = ServingUnits(nothing_yet, workers, processes, preload)
    server = StreamServer(endpoint, units, describe, open_socket, max_message_bytes=max_message_bytes, **options)
    if make_handler is not None:
        server.set_handler(make_handler)
    return server


def _as_threads(describe: Callable[[str, int], ServerInfo], protocol: str, limit: int) -> ServerInfo:
    return replace(describe(protocol, limit), worker_kind="thread", server_processes=1)
