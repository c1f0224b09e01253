"""A bell: one side waits, any thread or signal handler rings. It has no lock that a handler could find held."""

from __future__ import annotations

import select
import socket


class Bell:
    """Make it, `wait` in one thread at a time, `ring` from anywhere, `close` it."""

    def __init__(self, *descriptors: int) -> None:
        """Take what else ends a wait, when it is readable."""
        self._receiver, self._sender = socket.socketpair()
        for end in (self._receiver, self._sender):
            end.setblocking(False)
        self.descriptor = self._receiver.fileno()  # what is readable once it was rung
        self._poll = select.poll()
        for descriptor in (self._receiver.fileno(), *descriptors):
            self._poll.register(descriptor, select.POLLIN)

    def ring(self) -> None:
        """End a wait, the next one if nobody waits now."""
        try:
            self._sender.send(b"x")
        except OSError:
            return  # rung often enough already, or closed

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until rung, or another descriptor is readable, or the time is over; tell whether it was rung."""
        ready = self._poll.poll(None if seconds is None else seconds * 1000)
        for descriptor, _ in ready:
            if descriptor == self.descriptor:
                return self.hush()
        return False

    def hush(self) -> bool:
        """Forget that it was rung; tell whether it was."""
        try:
            return bool(self._receiver.recv(4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Give back its descriptors."""
        self._receiver.close()
        self._sender.close()
