"""Which descriptors can be read from or written to. No protocol, and no connection.

With epoll a thread waits while others change what is watched. Elsewhere `selectors` does the same, and a wait is cut
into short ones, because what is watched from now on would not end it.
"""

from __future__ import annotations

import select
import selectors
from typing import Protocol

from imdb_serving.workers.bell import Bell

EVENTS_A_TURN = 64
SHORT_SECONDS = 0.005

Event = tuple[int, int]
"""A descriptor, and `READ`, `WRITE` or both; one that has ended can be read from."""

READ, WRITE = 1, 4


class Readiness(Protocol):
    """All calls are made with one lock held, but for `wait` and `ring`; one thread waits at a time."""

    def watch(self, descriptor: int, *, read: bool, write: bool) -> None:
        """Tell from now on, as long as it is so, that `descriptor` can be read from, or written to."""

    def forget(self, descriptor: int) -> None:
        """Watch it no more; called before it is closed."""

    def wait(self, seconds: float) -> list[Event]:
        """Wait until something is ready, or `ring`; return what is known to be ready, maybe nothing."""

    def ready(self) -> list[Event]:
        """Return some of those that are ready now."""

    def ring(self) -> None:
        """End a wait; from any thread."""

    def close(self) -> None:
        """Give back what it holds."""


class EpollReadiness:
    """Linux's epoll."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._epoll = select.epoll()
        self._known: set[int] = set()
        self._bell = Bell()
        self._bell_descriptor = self._bell.descriptor
        self._epoll.register(self._bell_descriptor, select.EPOLLIN)

    def watch(self, descriptor: int, *, read: bool, write: bool) -> None:
        """Watch it; see `Readiness`."""
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
        """Watch it no more."""
        if descriptor in self._known:
            self._known.remove(descriptor)
            self._epoll.unregister(descriptor)

    def wait(self, seconds: float) -> list[Event]:
        """Wait; see `Readiness`. The bell's descriptor is among what it returns, and nobody's."""
        found: list[Event] = self._epoll.poll(seconds, EVENTS_A_TURN)
        for descriptor, _ in found:
            if descriptor == self._bell_descriptor:
                self._bell.hush()
        return found

    def ready(self) -> list[Event]:
        """Return some that are ready. The bell is left ringing: it rings for the one who waits."""
        found: list[Event] = self._epoll.poll(0, EVENTS_A_TURN)
        return found

    def ring(self) -> None:
        """End a wait."""
        self._bell.ring()

    def close(self) -> None:
        """Close the epoll."""
        self._epoll.close()
        self._bell.close()


class SelectorReadiness:
    """What `selectors` finds best, where there is no epoll."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._selector = selectors.DefaultSelector()
        self._bell = Bell()

    def watch(self, descriptor: int, *, read: bool, write: bool) -> None:
        """Watch it; see `Readiness`."""
        mask = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        if not mask:
            self.forget(descriptor)
        elif descriptor in self._selector.get_map():
            self._selector.modify(descriptor, mask)
        else:
            self._selector.register(descriptor, mask)

    def forget(self, descriptor: int) -> None:
        """Watch it no more."""
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def wait(self, seconds: float) -> list[Event]:
        """Wait a short time; see `Readiness`."""
        self._bell.wait(min(seconds, SHORT_SECONDS))
        return []

    def ready(self) -> list[Event]:
        """Return some that are ready."""
        return [
            (key.fd, (READ if mask & selectors.EVENT_READ else 0) | (WRITE if mask & selectors.EVENT_WRITE else 0))
            for key, mask in self._selector.select(0)[:EVENTS_A_TURN]
        ]

    def ring(self) -> None:
        """End a wait."""
        self._bell.ring()

    def close(self) -> None:
        """Close the selector."""
        self._selector.close()
        self._bell.close()


def make_readiness() -> Readiness:
    """Return what this system has."""
    return EpollReadiness() if hasattr(select, "epoll") else SelectorReadiness()
