"""What a server does at its start: listening on TCP or a Unix path, which it locks, and work before it can answer.

A Unix path belongs to one server at a time; the socket file of a server that is gone is replaced. While the start-up
work runs in a thread, the server already answers that it is starting.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

from imdb_serving.errors import ServerStartError, Starting

if sys.platform != "win32":
    import fcntl

PROBE_SECONDS = 1.0


@contextmanager
def unix_path_lock(path: str) -> Iterator[None]:
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
    listening = socket.socket(socket.AF_UNIX)
    try:
        with unix_path_lock(path):
            listening.bind(path)
            listening.listen(BACKLOG)
    except ServerStartError:
        listening.close()
        raise
    return listening


KEEP_SECONDS = 0.05
END_SECONDS = 5.0


class Starter:
    """Does something in a thread of its own; until it is done, `refusal` is what is answered."""

    def __init__(self, do: Callable[[], None]) -> None:
        """Take what is to be done; it may raise. Nothing is begun before `run`."""
        self._do = do
        self._begun = monotonic()
        self._errors: list[BaseException] = []
        self._is_done = False
        self._thread = threading.Thread(target=self._run, name="start", daemon=True)

    def _run(self) -> None:
        try:
            self._do()
        except BaseException as error:
            self._errors.append(error)

    def refusal(self) -> Starting | None:
        """Return what requests are answered while the server starts; None once it can answer them.

        The time until then is an estimate: as long again as it has taken.
        """
        return None if self._is_done else Starting(max(1.0, monotonic() - self._begun))

    def run(self, keep: Callable[[float], object], is_stopping: Callable[[], bool]) -> bool:
        """Do it, calling `keep` with some seconds over and over meanwhile; return False when it was stopped before.

        Raises what was raised.
        """
        self._thread.start()
        while self._thread.is_alive() and not is_stopping():
            keep(KEEP_SECONDS)
        if is_stopping():
            return False
        for error in self._errors:
            raise error
        self._is_done = True
        return True

    def join(self) -> None:
        """Wait some seconds for what was stopped."""
        if self._thread.is_alive():
            self._thread.join(END_SECONDS)
