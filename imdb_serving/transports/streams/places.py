"""Paths at which a server listens: one server's at a time, and gone when it ends, however it ends.

A socket's file stays when its server is killed. So a small process waits for the end of the server and removes it then.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imdb_serving.errors import ServerStartError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

END_SECONDS = 5.0
PROBE_SECONDS = 1.0
_REMOVE = """
import os, sys
path, folder, mark = sys.argv[1:]
sys.stdin.buffer.read()
try:
    found = os.stat(path)
    if f"{found.st_dev} {found.st_ino} {found.st_mtime_ns}" == mark:
        os.unlink(path)
        if folder:
            os.rmdir(folder)
except OSError:
    pass
"""


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


class Janitor:
    """Removes a socket's file when this process has ended, or `close` is called."""

    def __init__(self, path: str, folder: str = "") -> None:
        """Take a path that is bound, and the folder to remove as well, if it was made for it."""
        found = Path(path).stat()
        mark = f"{found.st_dev} {found.st_ino} {found.st_mtime_ns}"
        command = [sys.executable, "-I", "-S", "-c", _REMOVE, path, folder, mark]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            log.warning("should this server be killed, %s will stay: %s", path, error)

    def close(self) -> None:
        """Remove the file now."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=END_SECONDS)
