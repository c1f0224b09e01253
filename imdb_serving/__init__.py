"""Serve a CPU text model over RPC or HTTP, and measure what serving costs.

Importing this package is quick and does nothing: no framework is loaded, no logging is set up. The public names
below are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imdb_serving.errors import (
        BadRequest,
        Overloaded,
        RemoteFailure,
        RequestTimeout,
        ServerUnavailable,
        ServingError,
    )
    from imdb_serving.server_process import ServerProcess
    from imdb_serving.transports.connect import connect
    from imdb_serving.transports.http.client import HttpClient
    from imdb_serving.transports.rpc.socket_client import SocketClient
    from imdb_serving.transports.rpc.zeromq_client import RpcClient

__version__ = "0.1.0"

__all__ = [
    "BadRequest",
    "HttpClient",
    "Overloaded",
    "RemoteFailure",
    "RequestTimeout",
    "RpcClient",
    "ServerProcess",
    "ServerUnavailable",
    "ServingError",
    "SocketClient",
    "__version__",
    "connect",
]

_HOMES = {
    "BadRequest": "imdb_serving.errors",
    "HttpClient": "imdb_serving.transports.http.client",
    "Overloaded": "imdb_serving.errors",
    "RemoteFailure": "imdb_serving.errors",
    "RequestTimeout": "imdb_serving.errors",
    "RpcClient": "imdb_serving.transports.rpc.zeromq_client",
    "ServerProcess": "imdb_serving.server_process",
    "ServerUnavailable": "imdb_serving.errors",
    "ServingError": "imdb_serving.errors",
    "SocketClient": "imdb_serving.transports.rpc.socket_client",
    "connect": "imdb_serving.transports.connect",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
