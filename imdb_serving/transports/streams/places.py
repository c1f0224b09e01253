"""Paths at which a server listens: one server's at a time; what one that is gone left there is replaced."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imdb_serving.errors import ServerStartError

if sys.platform != "win32":
    import fcntl

PROBE_SECONDS = 1.0


@contextmanager
def claimed(path: str) -> Iterator[None]:
    """Hold a path's folder while one looks whether a server listens there, removes what one left, and binds.

    Raises `ServerStartError` when one listens, or the path cannot be used. What is no socket is left alone.
    """
    place = Path(path)
    try:
        folder = os.open(place.parent, os.O_RDONLY)
    except OSError as error:
        raise cannot_listen(path, error) from error
    try:
        with suppress(OSError):  # a file system without locks: two servers that start at once are not kept apart
            fcntl.flock(folder, fcntl.LOCK_EX)
        if place.is_socket():
            if _answers(path):
                raise cannot_listen(path, "another server listens there")
            place.unlink()
        elif place.exists():
            raise cannot_listen(path, "something else is there")
        yield
    except OSError as error:
        raise cannot_listen(path, error) from error
    finally:
        os.close(folder)


def cannot_listen(path: str, why: object) -> ServerStartError:
    """Return the error for a path that cannot be had."""
    return ServerStartError(f"cannot listen at {path}: {why}; choose another path")


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # busy, or not ours to ask
    return True
