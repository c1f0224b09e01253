"""Listening sockets, over TCP and on a path; a refusal says what was wrong."""

from __future__ import annotations

import socket
from pathlib import Path

from imdb_serving.errors import ServerStartError

BACKLOG = 1024


def listen(host: str, port: int, backlog: int = BACKLOG) -> socket.socket:
    """Return a socket that listens over TCP; raise `ServerStartError` when the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=backlog)
    except (OSError, ValueError, OverflowError) as error:
        raise ServerStartError(f"cannot listen on {host}:{port}: {error}; choose another port") from error


def listen_at(path: str) -> socket.socket:
    """Return a socket that listens at a path; what a server that is gone left there is replaced."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if _is_left_over(path):
            Path(path).unlink()
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ServerStartError(f"cannot listen at {path}: {error}; choose another path") from error
    return listener


def _is_left_over(path: str) -> bool:
    """Tell whether there is a socket at a path at which nobody listens."""
    if not Path(path).is_socket():
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
