"""Endpoints of RPC: ZeroMQ's, `tcp://` and `ipc://`, and plain sockets', `socket://HOST:PORT` and `socket+unix://PATH`."""

from __future__ import annotations

from typing import NamedTuple

from imdb_serving.errors import BadRequest

SOCKET, UNIX = "socket", "socket+unix"


class Address(NamedTuple):
    """Where a plain socket listens: a host and a port, or a path."""

    host: str = ""
    port: int = 0
    path: str = ""


def is_socket(endpoint: str) -> bool:
    """Tell whether an endpoint is a plain socket's."""
    return endpoint.partition("://")[0] in {SOCKET, UNIX}


def check_zeromq(endpoint: str) -> None:
    """Raise `BadRequest` for what is not an endpoint of ZeroMQ between processes.

    ZeroMQ itself takes port 99999 for 34463, and `inproc://`, which no other process can reach.
    """
    scheme, found, rest = endpoint.partition("://")
    if found and scheme == "ipc" and rest:
        return
    host, _, port = rest.rpartition(":")
    if not (found and scheme == "tcp" and host and (port == "*" or _is_port(port))):
        raise BadRequest(
            f"cannot use the endpoint {endpoint!r}: expected tcp://HOST:PORT, ipc:///PATH, socket://HOST:PORT "
            "or socket+unix:///PATH"
        )


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) < 1 << 16


def socket_address(endpoint: str) -> Address:
    """Take a plain socket's endpoint apart; raise `BadRequest` for one that is none."""
    scheme, found, rest = endpoint.partition("://")
    if found and scheme == UNIX and rest and "\0" not in rest:
        return Address(path=rest)
    host, _, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not (found and scheme == SOCKET and host and _is_port(port)):
        raise BadRequest(f"cannot use the endpoint {endpoint!r}: expected socket://HOST:PORT or socket+unix:///PATH")
    return Address("0.0.0.0" if host == "*" else host, int(port))  # noqa: S104 - asked for, as ZeroMQ has it


def ipc_path(endpoint: str) -> str:
    """Return the path of one of ZeroMQ's endpoints that has a file, else nothing."""
    scheme, _, path = endpoint.partition("://")
    return path if scheme == "ipc" and path[:1] not in {"", "@", "*"} else ""


def with_port(host: str, port: int) -> str:
    """Return host and port as endpoints have them: an address of version 6 is written in brackets."""
    return f"{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{port}"


def socket_endpoint(host: str, port: int) -> str:
    """Return a plain socket's endpoint over TCP."""
    return f"{SOCKET}://{with_port(host, port)}"
