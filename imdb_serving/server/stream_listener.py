"""A listener over stream sockets: it accepts, reads and closes connections. Subclasses decide what the bytes mean.

A connection is watched as long as it may be read from.
"""

from __future__ import annotations

import errno
import logging
import socket
from abc import abstractmethod
from time import monotonic
from typing import Generic, TypeVar

from imdb_serving.errors import Overloaded, RequestTimeout
from imdb_serving.server.connection import SHORTAGES, StreamConnection
from imdb_serving.server.listener import Listener, Supervisor
from imdb_serving.server.readiness import EVENTS_A_TURN, READ, WRITE, Readiness

log = logging.getLogger(__name__)

LINGER_SECONDS = 2.0
SWEEP_SECONDS = 1.0
ACCEPTED_A_TURN = 64

MAX_HELD_BYTES = 256 << 20
"""Of messages that are not passed on yet, and of answers that are not read, on all connections together."""

TOO_MUCH_HELD = "more large messages are arriving than this server holds at once; try again later"
TOO_SLOW = "the message did not arrive in time; send it faster"
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, *SHORTAGES})
"""Errors of `accept` that say that this process or system has no more; others are of that one connection."""

C = TypeVar("C", bound=StreamConnection)


class StreamListener(Listener, Generic[C]):
    """The listening socket and all connections."""

    def __init__(self, listening: socket.socket, supervisor: Supervisor) -> None:
        """Take the listening socket, and whom this works for."""
        self._supervisor = supervisor
        listening.setblocking(False)
        self._listening = listening
        self._readiness = Readiness()
        self._readiness.watch(listening.fileno(), read=True, write=False)
        self.connections: dict[int, C] = {}
        self._swept = monotonic()
        self._held_bytes = 0
        self._refuses = False

    @abstractmethod
    def _open(self, client: socket.socket) -> C:
        """Make a connection of an accepted socket."""

    @abstractmethod
    def _advance(self, connection: C) -> None:
        """Go on with a connection that has read something, or may go on for another reason; then `_settle` it."""

    def _is_stale(self, _connection: C, _idle_seconds: float) -> bool:
        """Tell whether a connection on which nothing moves shall be closed."""
        return False

    def receive(self) -> bool:
        events = self._readiness.ready()
        for descriptor, event in events:
            connection = self.connections.get(descriptor)
            if connection is not None:
                if event == READ:
                    self._take_in(connection)
                    continue
                if event & WRITE:
                    connection.flush()
                if event != WRITE:
                    connection.read()
                self._advance(connection)
                self._offer(connection)
            elif descriptor == self._listening.fileno():
                self._accept()
        return len(events) == EVENTS_A_TURN

    def _weigh(self, connection: C) -> None:
        """Count what a connection holds. If all together hold too much, refuse those that hold most and longest."""
        held = connection.held_bytes
        connection.is_heavy = held > 0
        self._held_bytes += held - connection.weighed
        connection.weighed = held
        if self._held_bytes > MAX_HELD_BYTES and not self._refuses:
            self._refuses = True
            try:
                self._refuse_heaviest()
            finally:
                self._refuses = False

    def _refuse_heaviest(self) -> None:
        now = monotonic()
        by_weight = sorted(self.connections.values(), key=lambda each: each.weighed * each.seconds_held(now))
        while self._held_bytes > MAX_HELD_BYTES and by_weight:
            heaviest = by_weight.pop()
            if not heaviest.weighed:
                return
            log.warning(
                "a connection is refused: all hold %d MiB, this one %d", self._held_bytes >> 20, heaviest.weighed >> 20
            )
            if heaviest.wants_to_write or heaviest.lingering:
                self._forget(heaviest)
                continue
            heaviest.refuse(Overloaded(TOO_MUCH_HELD))
            self._advance(heaviest)

    def _offer(self, connection: C) -> None:
        """Lend a connection to the workers, if it can be; here they have none."""

    def _take_in(self, connection: C) -> None:
        """Read from a connection, and go on with it."""
        connection.read()
        self._advance(connection)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                connection = self._open(self._listening.accept()[0])
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in OUT_OF_RESOURCES:
                    continue  # that connection has failed before it was accepted
                log.warning("a connection could not be accepted: %s", error)
                self._readiness.forget(self._listening.fileno())  # the next sweep watches the listener again
                return
            self.connections[connection.descriptor] = connection
            self._settle(connection)
            self._offer(connection)

    def _settle(self, connection: C) -> None:
        """Watch a connection for what it waits for now, or forget it when it is over."""
        if connection.is_heavy:
            self._weigh(connection)
        if connection.is_over:
            self._forget(connection)
            return
        if connection.ended and not connection.is_idle:
            self._supervisor.set_back(connection)
        wanted = (connection.wants_to_read, connection.wants_to_write)
        if wanted != connection.watched:
            if wanted[0] and not connection.watched[0] and connection.begun:
                connection.begun = monotonic()  # it was this server that did not read
            connection.watched = wanted
            self._readiness.watch(connection.descriptor, read=wanted[0], write=wanted[1])
        connection.settle()

    def _forget(self, connection: C) -> None:
        if self.connections.pop(connection.descriptor, None) is not None:
            self._readiness.forget(connection.descriptor)
            self._held_bytes -= connection.weighed
            connection.weighed = 0
            if not connection.is_idle:
                self._supervisor.abandon(connection)
            connection.close()

    def _knows(self, connection: C) -> bool:
        return self.connections.get(connection.descriptor) is connection

    def look_after(self) -> None:
        now = monotonic()
        if now - self._swept >= SWEEP_SECONDS:
            self._swept = now
            self._readiness.watch(self._listening.fileno(), read=True, write=False)
            for connection in list(self.connections.values()):
                idle = now - connection.touched
                has_lingered = connection.lingering and idle > LINGER_SECONDS
                if has_lingered or connection.is_unread(now) or self._is_stale(connection, idle):
                    self._forget(connection)
                elif connection.watched[0] and not connection.lingering and connection.is_late(now):
                    connection.refuse(RequestTimeout(TOO_SLOW))
                    self._advance(connection)

    def is_quiet(self) -> bool:
        return all(connection.is_idle for connection in list(self.connections.values()))

    def close(self) -> None:
        """Close everything."""
        self._readiness.forget(self._listening.fileno())
        self._listening.close()
        for connection in list(self.connections.values()):
            connection.part()
            self._forget(connection)
        self._readiness.close()
