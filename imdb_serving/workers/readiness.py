"""Which descriptors are ready, each told once and then not again until it is armed anew. No protocol.

With epoll, arming is a system call and needs no list to be walked; elsewhere `selectors` does the same, and a wait is
cut into short ones, because what is armed meanwhile by another thread would not end it.
"""

from __future__ import annotations

import select
import selectors
from typing import Protocol

EVENTS_A_TURN = 64


class Readiness(Protocol):
    """All calls are made with one lock held, but for those of whoever waits on `descriptors`."""

    descriptors: tuple[int, ...]
    """What is readable when something is ready; empty where a wait must be cut short instead."""

    def arm(self, descriptor: int, *, write: bool = False) -> None:
        """Tell once when `descriptor` can be read from, or written to."""

    def forget(self, descriptor: int) -> None:
        """Watch it no more; called before it is closed."""

    def ready(self) -> list[tuple[int, bool]]:
        """Return some of those that are ready now, each with whether it is for writing."""

    def close(self) -> None:
        """Give back what it holds."""


class EpollReadiness:
    """Linux's epoll."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._epoll = select.epoll()
        self._known: set[int] = set()
        self.descriptors: tuple[int, ...] = (self._epoll.fileno(),)

    def arm(self, descriptor: int, *, write: bool = False) -> None:
        """Tell once; see `Readiness`."""
        mask = (select.EPOLLOUT if write else select.EPOLLIN) | select.EPOLLONESHOT
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

    def ready(self) -> list[tuple[int, bool]]:
        """Return some that are ready."""
        return [(descriptor, bool(event & select.EPOLLOUT)) for descriptor, event in self._epoll.poll(0, EVENTS_A_TURN)]

    def close(self) -> None:
        """Close the epoll."""
        self._epoll.close()


class SelectorReadiness:
    """What `selectors` finds best, where there is no epoll."""

    descriptors: tuple[int, ...] = ()

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._selector = selectors.DefaultSelector()

    def arm(self, descriptor: int, *, write: bool = False) -> None:
        """Tell once; see `Readiness`."""
        event = selectors.EVENT_WRITE if write else selectors.EVENT_READ
        if descriptor in self._selector.get_map():
            self._selector.modify(descriptor, event)
        else:
            self._selector.register(descriptor, event)

    def forget(self, descriptor: int) -> None:
        """Watch it no more."""
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def ready(self) -> list[tuple[int, bool]]:
        """Return some that are ready."""
        found = [(key.fd, bool(event & selectors.EVENT_WRITE)) for key, event in self._selector.select(0)]
        for descriptor, _ in found[:EVENTS_A_TURN]:
            self._selector.unregister(descriptor)
        return found[:EVENTS_A_TURN]

    def close(self) -> None:
        """Close the selector."""
        self._selector.close()


def make_readiness() -> Readiness:
    """Return what this system has."""
    return EpollReadiness() if hasattr(select, "epoll") else SelectorReadiness()
