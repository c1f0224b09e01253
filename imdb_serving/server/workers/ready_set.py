"""The ready set: connections on which a request waits, in the order of arrival; any idle worker takes one.

On Linux it is one epoll that all processes share: the kernel is the queue. A connection is armed for one event. Who is
given the event has the connection to itself, and arms it again when it has answered. An epoll knows a connection by
file *and* number, so all processes hold a connection under the same number. Elsewhere `selectors` does the same for the
threads of one process.
"""

from __future__ import annotations

import ctypes
import os
import select
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from imdb_serving.server.workers.scoreboard import Row

WAIT_SECONDS = 1.0
PEER_LEFT = getattr(select, "EPOLLRDHUP", 0x2000)
"""The flag of an event that says that the client sends no more."""


class ReadySet(Protocol):
    """What `waiter` returns may be called by all workers at once; all else by the supervisor.

    Who was given a descriptor may `arm` it as well.
    """

    def arm(self, number: int) -> None:
        """Have a worker take it once it can be read from."""

    def disarm(self, number: int) -> None:
        """Have no worker take it from now on, and before it is closed; one may have been given it before."""

    def waiter(self, row: Row) -> Callable[[int], int]:
        """Return what a worker calls to wait a while, with how many descriptors it takes at most.

        It returns how many are the worker's alone. They are in the row.
        """

    def next(self) -> int:
        """Do the same, for one that no row needs to tell of; return 0 if there was none."""

    def wake_all(self) -> None:
        """Have all that wait return, from now on."""

    def close(self) -> None:
        """Give back what it holds."""


class EpollReadySet:
    """Linux's epoll, called so that the kernel writes the event into the worker's row."""

    ARMED = getattr(select, "EPOLLIN", 1) | getattr(select, "EPOLLONESHOT", 1 << 30) | PEER_LEFT

    def __init__(self, descriptor: int | None = None) -> None:
        """Make it, or take that of another process by its descriptor."""
        self._epoll = select.epoll() if descriptor is None else select.epoll.fromfd(descriptor)
        self.descriptor = self._epoll.fileno()
        self.arm = self._arm  # an attribute costs less than a method
        self._wait = ctypes.CDLL(None, use_errno=True).epoll_wait
        self._wait.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
        self._woken: int | None = None

    def _arm(self, number: int) -> None:
        try:
            self._epoll.modify(number, self.ARMED)
        except FileNotFoundError:  # it was disarmed, or never armed
            self._epoll.register(number, self.ARMED)

    def disarm(self, number: int) -> None:
        """Have no worker take it: an epoll that knows it at all would tell of a connection that has failed."""
        with suppress(FileNotFoundError):
            self._epoll.unregister(number)

    def waiter(self, row: Row) -> Callable[[int], int]:
        address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(row.events)))
        call, milliseconds = self._wait, int(1000 * WAIT_SECONDS)

        def wait(most: int) -> int:
            count: int = call(self.descriptor, address, most, milliseconds)
            return count if count > 0 else 0

        return wait

    def next(self) -> int:
        found = self._epoll.poll(WAIT_SECONDS, 1)
        return found[0][0] if found else 0

    def wake_all(self) -> None:
        if self._woken is None:
            self._woken = os.eventfd(1)
            self._epoll.register(self._woken, select.EPOLLIN)

    def close(self) -> None:
        if self._woken is not None:
            os.close(self._woken)
        self.descriptor = -1  # its number may soon be another one's
        self._epoll.close()


class SelectorReadySet:
    """What `selectors` finds best, for the threads of one process, of which one at a time looks."""

    descriptor = -1

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._turn, self._changing = threading.Lock(), threading.RLock()
        self._ready: deque[int] = deque()
        self._armed: set[int] = set()
        self._receiver, self._sender = socket.socketpair()
        for end in (self._receiver, self._sender):
            end.setblocking(False)
        self._selector.register(self._receiver, selectors.EVENT_READ)
        self._is_over = False

    def arm(self, number: int) -> None:
        with self._changing:
            if number not in self._armed:
                self._armed.add(number)
                self._selector.register(number, selectors.EVENT_READ)
        self._ring()

    def disarm(self, number: int) -> None:
        with self._changing:
            if number in self._armed:
                self._armed.discard(number)
                self._selector.unregister(number)

    def waiter(self, row: Row) -> Callable[[int], int]:
        def wait(_most: int) -> int:
            row.numbers[0] = number = self.next()
            return int(number != 0)

        return wait

    def next(self) -> int:
        with self._turn:
            if self._is_over:
                return 0
            for key, _ in self._selector.select(WAIT_SECONDS):
                with self._changing:
                    if key.fileobj is self._receiver:
                        self._clear()
                    elif key.fd in self._armed:
                        self.disarm(key.fd)
                        return key.fd
        return 0

    def _ring(self) -> None:
        try:
            self._sender.send(b"x")
        except OSError:
            return  # rung often enough already, or closed

    def _clear(self) -> None:
        try:
            self._receiver.recv(4096)
        except BlockingIOError:
            return

    def wake_all(self) -> None:
        self._is_over = True
        self._ring()

    def close(self) -> None:
        self._selector.close()
        self._receiver.close()
        self._sender.close()


def make_ready_set() -> ReadySet:
    """Return what this system has."""
    return EpollReadySet() if hasattr(select, "epoll") else SelectorReadySet()
