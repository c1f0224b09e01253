"""From an endpoint to the client that speaks its protocol."""

from __future__ import annotations

from imdb_serving.config import DEFAULT_TIMEOUT
from imdb_serving.errors import BadRequest
from imdb_serving.transports.base import Client

KEEP_ALIVE, CURL = "keep-alive", "curl"


def connect(endpoint: str, timeout: float = DEFAULT_TIMEOUT, http_client: str = KEEP_ALIVE) -> Client:
    """Return the client for an endpoint.

    `tcp://` and `ipc://` are RPC over ZeroMQ, `socket://` and `socket+unix://` RPC over a plain socket. `http://` is
    the HTTP service, for which `http_client` is `keep-alive` or `curl`.
    """
    scheme = endpoint.partition("://")[0]
    if scheme in {"tcp", "ipc"}:
        from imdb_serving.transports.rpc.zeromq_client import RpcClient

        return RpcClient(endpoint, timeout=timeout)
    if scheme in {"socket", "socket+unix"}:
        from imdb_serving.transports.rpc.socket_client import SocketClient

        return SocketClient(endpoint, timeout=timeout)
    if scheme == "http":
        from imdb_serving.transports.http.client import CurlClient, HttpClient

        return (CurlClient if http_client == CURL else HttpClient)(endpoint, timeout=timeout)
    raise BadRequest(
        f"cannot use the endpoint {endpoint!r}: expected tcp://, ipc://, socket://, socket+unix:// or http://"
    )
