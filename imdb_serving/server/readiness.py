"""Which descriptors can be read or written, and a waker that ends a wait from any thread or signal handler."""

from __future__ import annotations

import selectors
import socket

EVENTS_A_TURN = 64
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Event = tuple[int, int]
"""A descriptor, and `READ`, `WRITE` or both; one that has ended can be read from."""


class Waker:
    """Make it, wait for its `descriptor`, `wake` from anywhere, `close` it. No lock that a handler could find held."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        for end in (self._receiver, self._sender):
            end.setblocking(False)
        self.descriptor = self._receiver.fileno()
        """Readable once it was rung, until `clear`."""

    def wake(self) -> None:
        """End a wait, the next one if nobody waits now."""
        try:
            self._sender.send(b"x")
        except OSError:
            return  # rung often enough already, or closed

    def clear(self) -> bool:
        """Clear a wake-up; return whether there was one."""
        try:
            return bool(self._receiver.recv(4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Give back its descriptors."""
        self._receiver.close()
        self._sender.close()


class Readiness:
    """What `selectors` finds best on this system. Used by one thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._first = 0
        self.descriptor: int = getattr(self._selector, "fileno", lambda: -1)()
        """One that can be read from when something is ready; -1 where there is none."""

    def watch(self, descriptor: int, *, read: bool, write: bool) -> None:
        """Tell from now on, as long as it is so, that `descriptor` can be read from, or written to."""
        mask = (READ if read else 0) | (WRITE if write else 0)
        if not mask:
            self.forget(descriptor)
        elif descriptor in self._selector.get_map():
            self._selector.modify(descriptor, mask)
        else:
            self._selector.register(descriptor, mask)

    def forget(self, descriptor: int) -> None:
        """Watch it no more; called before it is closed."""
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def ready(self) -> list[Event]:
        """Return some of those that are ready now."""
        found = self._selector.select(0)
        if len(found) > EVENTS_A_TURN:  # each has its turn
            self._first = (self._first + EVENTS_A_TURN) % len(found)
            found = (found[self._first :] + found[: self._first])[:EVENTS_A_TURN]
        return [(key.fd, mask) for key, mask in found]

    def close(self) -> None:
        """Give back what it holds."""
        self._selector.close()
