"""The RPC server: over ZeroMQ, or over plain sockets on TCP or a Unix path."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from imdb_serving.config import MAX_MESSAGE_BYTES
from imdb_serving.errors import BadRequest, ConfigError, ServerStartError
from imdb_serving.messages import Handler, ServerInfo
from imdb_serving.processes import Cleanup
from imdb_serving.protocol.endpoints import check_zeromq, is_socket, socket_address, socket_endpoint
from imdb_serving.protocol.framing import PROTOCOL
from imdb_serving.server.listener import Supervisor
from imdb_serving.server.rpc.requests import RequestDecoder, RpcCarrier
from imdb_serving.server.rpc.socket_listener import SocketListener
from imdb_serving.server.server import Server
from imdb_serving.server.startup import listen, listen_at
from imdb_serving.server.workers.units import units_for

if TYPE_CHECKING:
    from imdb_serving.server.rpc.curve import ServerKeys
    from imdb_serving.server.rpc.shared_listener import SharedListener


class RpcService:
    """RPC at an endpoint; `keys` are for ZeroMQ alone."""

    def __init__(self, endpoint: str, max_message_bytes: int, keys: ServerKeys | None, *, local: bool) -> None:
        """Take everything; `local` says that the workers are threads of this process."""
        if keys is not None and is_socket(endpoint):
            raise ConfigError(f"keys are for ZeroMQ: serve at tcp:// or ipc://, not at {endpoint}")
        self._endpoint, self._limit, self._keys, self._local = endpoint, max_message_bytes, keys, local
        self.carrier = RpcCarrier(None, max_message_bytes)

    def answering(self, make_handler: Callable[[], Handler]) -> functools.partial[RpcCarrier]:
        """Return what makes a worker's carrier."""
        return functools.partial(RpcCarrier, make_handler, self._limit)

    def decoder(self, supervisor: Supervisor) -> RequestDecoder:
        """Return what makes tasks of messages."""
        return RequestDecoder(supervisor.introduce, self._limit, for_threads=self._local)

    def listen(self, supervisor: Supervisor) -> SharedListener | SocketListener:
        """Listen; raise `ServerStartError` when the endpoint cannot be had, `ConfigError` when the keys are none."""
        decoder = self.decoder(supervisor)
        try:
            if is_socket(self._endpoint):
                return self._listen_at_socket(decoder, supervisor)
            check_zeromq(self._endpoint)
        except BadRequest as error:
            raise ServerStartError(str(error)) from error
        from imdb_serving.server.rpc.zeromq_listener import ZmqListener

        return ZmqListener(self._endpoint, decoder, supervisor, self._keys, direct=self._local)

    def _listen_at_socket(self, decoder: RequestDecoder, supervisor: Supervisor) -> SocketListener:
        address = socket_address(self._endpoint)
        if address.path:
            listening = listen_at(address.path)
            return SocketListener(listening, self._endpoint, decoder, Cleanup(address.path).close, supervisor)
        listening = listen(address.host, address.port)
        at = socket_endpoint(*listening.getsockname()[:2])
        return SocketListener(listening, at, decoder, lambda: None, supervisor)


def rpc_server(
    endpoint: str,
    make_handler: Callable[[], Handler] | None,
    workers: int,
    processes: int,
    describe: Callable[[str, int], ServerInfo],
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    preload: Sequence[str] = (),
    keys: ServerKeys | None = None,
    **options: Any,
) -> Server:
    """Return a server at an endpoint with so many workers, in `processes` processes.

    With 0 they are threads of this process. What makes handlers may come later, by `set_handler`, in `prepare`.
    """
    units, info = units_for(workers, processes, preload, describe(PROTOCOL.decode(), max_message_bytes))
    service = RpcService(endpoint, max_message_bytes, keys, local=units.kind == "thread")
    server = Server(service, units, info, **options)
    if make_handler is not None:
        server.set_handler(make_handler)
    return server
