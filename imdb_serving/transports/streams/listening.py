"""Listening sockets, over TCP and on a path; a refusal says what was wrong."""

from __future__ import annotations

import errno
import socket

from imdb_serving.errors import ServerStartError
from imdb_serving.transports.streams.places import claimed

BACKLOG = 1024
TAKEN = {errno.EADDRINUSE, errno.EACCES}


def listen(host: str, port: int, backlog: int = BACKLOG) -> socket.socket:
    """Return a socket that listens over TCP; raise `ServerStartError` when the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=backlog)
    except (OSError, ValueError, OverflowError) as error:
        raise ServerStartError(f"cannot listen on {host}:{port}: {error}; {advice(error)}") from error


def advice(error: Exception) -> str:
    """Return what to do about an address that cannot be had."""
    taken = getattr(error, "errno", None) in TAKEN or isinstance(error, OverflowError | ValueError)
    return "choose another port" if taken else "choose another host, one of this machine's addresses"


def listen_at(path: str) -> socket.socket:
    """Return a socket that listens at a path; what a server that is gone left there is replaced."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        with claimed(path):
            listener.bind(path)
            listener.listen(BACKLOG)
    except ServerStartError:
        listener.close()
        raise
    return listener
