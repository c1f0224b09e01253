"""What ZeroMQ's listeners do when no descriptor is left: they refuse connections instead of trying without end.

ZeroMQ's own thread tries to accept a connection for as long as one waits. Without a descriptor that fails at once each
time, and takes a whole processor. So a thread with a table of descriptors of its own, which has room (Linux, unshare),
accepts such connections and closes them. Elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import socket
import sys
import threading
from contextlib import suppress

log = logging.getLogger(__name__)

LOOK_MS = 200
END_SECONDS = 2.0
CLONE_FILES = 0x400
MOST = 1 << 20


class ConnectionRefuser:
    """Refuses connections at some listening sockets while no descriptor is left."""

    def __init__(self) -> None:
        """Refuse none."""
        self._listeners: list[int] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, listener: int) -> None:
        """Look after one more listening socket, given by its descriptor.

        Two threads accept from it, so neither may wait there for a connection that the other one took.
        """
        with suppress(OSError):
            os.set_blocking(listener, False)
            self._listeners.append(listener)

    def check(self) -> None:
        """Begin to refuse connections when no descriptor is left, and end when there is one; called now and then."""
        if _is_one_left():
            self._over.set()
        elif self._listeners and (self._thread is None or not self._thread.is_alive()):
            log.warning("no descriptor is left: new connections are refused; raise the limit (ulimit -n)")
            self._over.clear()
            self._thread = threading.Thread(target=self._refuse, name="refuse", daemon=True)
            self._thread.start()

    def _refuse(self) -> None:
        if not _unshare_descriptors():
            self._over.wait()
            return
        below = 0
        for listener in [*sorted(self._listeners), MOST]:  # what else is open is not to be kept open by this thread
            os.closerange(below, listener)
            below = listener + 1
        poll = select.poll()
        for listener in self._listeners:
            poll.register(listener, select.POLLIN)
        while not self._over.is_set():
            for listener, _ in poll.poll(LOOK_MS):
                _refuse_one(listener)

    def close(self) -> None:
        """Refuse no more; before the listening sockets are closed."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)


def _unshare_descriptors() -> bool:
    """Give the calling thread a table of descriptors of its own; tell whether that could be done."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return int(ctypes.CDLL(None).unshare(CLONE_FILES)) == 0
    except (OSError, AttributeError):
        return False


def _refuse_one(listener: int) -> None:
    listening = socket.socket(fileno=listener)
    try:
        with suppress(OSError):
            listening.accept()[0].close()
    finally:
        listening.detach()


def _is_one_left() -> bool:
    try:
        os.close(os.dup(2))
    except OSError:
        return False
    return True
