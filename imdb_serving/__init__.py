"""Serve a CPU text model over RPC or HTTP, and measure what serving costs.

Importing this package is quick and does nothing: no framework is loaded, no logging is set up. The public names
below are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imdb_serving.clients.connect import connect
    from imdb_serving.clients.http import HttpClient
    from imdb_serving.clients.sockets import SocketClient
    from imdb_serving.clients.zeromq import RpcClient
    from imdb_serving.errors import (
        BadRequest,
        Overloaded,
        RemoteFailure,
        RequestTimeout,
        ServerUnavailable,
        ServingError,
    )
    from imdb_serving.server_process import ServerProcess

    __version__: str

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
    "HttpClient": "imdb_serving.clients.http",
    "Overloaded": "imdb_serving.errors",
    "RemoteFailure": "imdb_serving.errors",
    "RequestTimeout": "imdb_serving.errors",
    "RpcClient": "imdb_serving.clients.zeromq",
    "ServerProcess": "imdb_serving.server_process",
    "ServerUnavailable": "imdb_serving.errors",
    "ServingError": "imdb_serving.errors",
    "SocketClient": "imdb_serving.clients.sockets",
    "connect": "imdb_serving.clients.connect",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name == "__version__":
        globals()[name] = _version()  # found without this function from now on
        return globals()[name]
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def _version() -> str:
    """Return the version of the installed package, which is that of the tag it was built from."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - it takes a while

    try:
        return version("imdb-serving")
    except PackageNotFoundError:  # run from a folder, not installed
        return "0+unknown"
