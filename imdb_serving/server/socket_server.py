"""The server over plain sockets: RPC's messages in one piece, on TCP or a Unix path."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from imdb_serving.config import MAX_MESSAGE_BYTES
from imdb_serving.errors import BadRequest, ServerStartError
from imdb_serving.messages import Handler, ServerInfo
from imdb_serving.processes import Cleanup
from imdb_serving.protocol.endpoints import socket_address, socket_endpoint
from imdb_serving.protocol.framing import PROTOCOL
from imdb_serving.server.ready_set import ReadySet
from imdb_serving.server.rpc_requests import RequestDecoder, RpcCarrier
from imdb_serving.server.scoreboard import Scoreboard
from imdb_serving.server.serving_units import units_for
from imdb_serving.server.socket_listener import SocketListener
from imdb_serving.server.startup import listen, listen_at
from imdb_serving.server.stream_server import StreamServer


class SocketService:
    """RPC over plain sockets, at an endpoint."""

    def __init__(self, endpoint: str, max_message_bytes: int) -> None:
        self._endpoint, self._limit = endpoint, max_message_bytes
        self.carrier = RpcCarrier(None, max_message_bytes)

    def answering(self, make_handler: Callable[[], Handler]) -> functools.partial[RpcCarrier]:
        """Return what makes a worker's carrier."""
        return functools.partial(RpcCarrier, make_handler, self._limit)

    def listen(self, introduce: Callable[[], ServerInfo], shared: tuple[ReadySet, Scoreboard, int]) -> SocketListener:
        """Listen; raise `ServerStartError` when the endpoint cannot be had."""
        try:
            address = socket_address(self._endpoint)
        except BadRequest as error:
            raise ServerStartError(str(error)) from error
        decoder = RequestDecoder(introduce, self._limit, "process")
        if address.path:
            listening = listen_at(address.path)
            return SocketListener(listening, self._endpoint, decoder, Cleanup(address.path).close, shared)
        listening = listen(address.host, address.port)
        at = socket_endpoint(*listening.getsockname()[:2])
        return SocketListener(listening, at, decoder, lambda: None, shared)


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
    units, info = units_for(workers, processes, preload, describe(PROTOCOL.decode(), max_message_bytes))
    server = StreamServer(SocketService(endpoint, max_message_bytes), units, info, **options)
    if make_handler is not None:
        server.set_handler(make_handler)
    return server
