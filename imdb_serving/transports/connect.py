"""From an endpoint to the client that speaks its protocol."""

from __future__ import annotations

from imdb_serving.config import DEFAULT_TIMEOUT
from imdb_serving.errors import BadRequest
from imdb_serving.transports.base import Client
from imdb_serving.transports.http.client import CurlClient, HttpClient
from imdb_serving.transports.rpc.client import RpcClient

KEEP_ALIVE, CURL = "keep-alive", "curl"


def connect(endpoint: str, timeout: float = DEFAULT_TIMEOUT, http_client: str = KEEP_ALIVE) -> Client:
    """Return a client of `tcp://` or `ipc://` (RPC) or `http://`; `http_client` is `keep-alive` or `curl`."""
    scheme = endpoint.partition("://")[0]
    if scheme in {"tcp", "ipc"}:
        return RpcClient(endpoint, timeout=timeout)
    if scheme == "http":
        return (CurlClient if http_client == CURL else HttpClient)(endpoint, timeout=timeout)
    raise BadRequest(f"cannot use the endpoint {endpoint!r}: expected tcp://, ipc:// or http://")
