"""Which descriptors can be read or written, and a waker that ends such a wait from any thread or signal handler.

With epoll one thread waits while others change what is watched. Elsewhere `selectors` does the same with short waits,
because what is watched from now on would not end a longer one. The waker has no lock that a signal handler could find
held.
"""

from __future__ import annotations

import select
import selectors
import socket
from typing import Protocol


class Waker:
    """Make it, `wait` in one thread at a time, `wake` from anywhere, `close` it."""

    def __init__(self, *descriptors: int) -> None:
        """Take what else ends a wait, when it is readable."""
        self._receiver, self._sender = socket.socketpair()
        for end in (self._receiver, self._sender):
            end.setblocking(False)
        self.descriptor = self._receiver.fileno()  # what is readable once it was rung
        self._poll = select.poll()
        for descriptor in (self._receiver.fileno(), *descriptors):
            self._poll.register(descriptor, select.POLLIN)

    def wake(self) -> None:
        """End a wait, the next one if nobody waits now."""
        try:
            self._sender.send(b"x")
        except OSError:
            return  # rung often enough already, or closed

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until woken, another descriptor is readable, or the time is over; return whether it was woken."""
        ready = self._poll.poll(None if seconds is None else seconds * 1000)
        for descriptor, _ in ready:
            if descriptor == self.descriptor:
                return self.clear()
        return False

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


EVENTS_A_TURN = 64
SHORT_SECONDS = 0.005

Event = tuple[int, int]
"""A descriptor, and `READ`, `WRITE` or both; one that has ended can be read from."""

READ, WRITE = 1, 4


class Readiness(Protocol):
    """All calls are made with one lock held, but for `wait` and `wake`; one thread waits at a time."""

    descriptor: int
    """One that can be read from when something is ready; -1 where there is none."""

    def watch(self, descriptor: int, *, read: bool, write: bool) -> None:
        """Tell from now on, as long as it is so, that `descriptor` can be read from, or written to."""

    def forget(self, descriptor: int) -> None:
        """Watch it no more; called before it is closed."""

    def wait(self, seconds: float) -> list[Event]:
        """Wait until something is ready, or `wake`; return what is known to be ready, maybe nothing."""

    def ready(self) -> list[Event]:
        """Return some of those that are ready now."""

    def wake(self) -> None:
        """End a wait; from any thread."""

    def close(self) -> None:
        """Give back what it holds."""


class EpollReadiness:
    """Linux's epoll."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.descriptor = self._epoll.fileno()
        self._known: set[int] = set()
        self._waker = Waker()
        self._bell_descriptor = self._waker.descriptor
        self._epoll.register(self._bell_descriptor, select.EPOLLIN)

    def watch(self, descriptor: int, *, read: bool, write: bool) -> None:
        if not read and not write:  # epoll tells of the end even when asked for nothing
            self.forget(descriptor)
            return
        mask = (READ if read else 0) | (WRITE if write else 0)  # epoll's own numbers
        if descriptor in self._known:
            self._epoll.modify(descriptor, mask)
        else:
            self._epoll.register(descriptor, mask)
            self._known.add(descriptor)

    def forget(self, descriptor: int) -> None:
        if descriptor in self._known:
            self._known.remove(descriptor)
            self._epoll.unregister(descriptor)

    def wait(self, seconds: float) -> list[Event]:
        found: list[Event] = self._epoll.poll(seconds, EVENTS_A_TURN)
        for descriptor, _ in found:
            if descriptor == self._bell_descriptor:
                self._waker.clear()
        return found

    def ready(self) -> list[Event]:
        """Return some that are ready. The waker is left ringing: it rings for the one who waits."""
        found: list[Event] = self._epoll.poll(0, EVENTS_A_TURN)
        return found

    def wake(self) -> None:
        self._waker.wake()

    def close(self) -> None:
        self._epoll.close()
        self._waker.close()


class SelectorReadiness:
    """What `selectors` finds best, where there is no epoll."""

    descriptor = -1

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._waker = Waker()

    def watch(self, descriptor: int, *, read: bool, write: bool) -> None:
        mask = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        if not mask:
            self.forget(descriptor)
        elif descriptor in self._selector.get_map():
            self._selector.modify(descriptor, mask)
        else:
            self._selector.register(descriptor, mask)

    def forget(self, descriptor: int) -> None:
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def wait(self, seconds: float) -> list[Event]:
        self._waker.wait(min(seconds, SHORT_SECONDS))
        return []

    def ready(self) -> list[Event]:
        return [
            (key.fd, (READ if mask & selectors.EVENT_READ else 0) | (WRITE if mask & selectors.EVENT_WRITE else 0))
            for key, mask in self._selector.select(0)[:EVENTS_A_TURN]
        ]

    def wake(self) -> None:
        self._waker.wake()

    def close(self) -> None:
        self._selector.close()
        self._waker.close()


def make_readiness() -> Readiness:
    """Return what this system has."""
    return EpollReadiness() if hasattr(select, "epoll") else SelectorReadiness()
