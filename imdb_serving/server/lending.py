"""A listener whose connections are lent to the workers while nothing about them is special.

A lent connection is armed in the ready set, and the workers' alone. The supervisor takes one back (`take`, `reclaim`)
when a worker leaves it, or to answer what waits on it; it lends it again (`offer`) once nothing of it is pending.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import select
import socket
import struct
import sys
import termios
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from imdb_serving.protocol.framing import Frame
from imdb_serving.server.connection import CHUNK
from imdb_serving.server.listener import Supervisor
from imdb_serving.server.request_queue import Task
from imdb_serving.server.stream_listener import C, StreamListener
from imdb_serving.server.workers.handover import renumbered
from imdb_serving.server.workers.ready_set import PEER_LEFT
from imdb_serving.server.workers.scoreboard import CONNECTION_CELLS, CONSUMED, GENERATION, SEEN, SENT
from imdb_serving.server.workers.worker import SO_TIMESTAMPNS

log = logging.getLogger(__name__)

STAMPS = sys.platform.startswith("linux") and struct.calcsize("P") == 8
"""Whether the kernel can stamp arrivals, in the form that `worker` reads."""

ARRIVALS_A_TURN = 1000
ARRIVAL = getattr(select, "EPOLLIN", 1) | getattr(select, "EPOLLET", 1 << 31) | PEER_LEFT
BYTES_ACKED = 120
"""Where this count lies in Linux's `tcp_info`, 8 bytes, and behind it that of the bytes received."""


class LendingListener(StreamListener[C]):
    """All connections of a server."""

    def __init__(self, listening: socket.socket, supervisor: Supervisor) -> None:
        """Take the listening socket, and whom this works for."""
        super().__init__(listening, supervisor)
        self._ready, self._board = supervisor.ready, supervisor.board
        self._generations = itertools.count(1)
        self._arrivals = select.epoll() if hasattr(select, "epoll") else None
        self._times = itertools.count()
        self.lent: dict[int, int] = {}
        self.unsettled: set[int] = set()

    @abstractmethod
    def _connect(self, client: socket.socket) -> C:
        """Make a connection of a socket that has its number."""

    @abstractmethod
    def _reply(self, connection: C, data: Frame) -> None:
        """Send the answer to a request that was submitted."""

    def client(self, task: Task) -> str:
        return task.route.name  # type: ignore[no-any-return]

    def owner(self, task: Task) -> C:
        return task.route  # type: ignore[no-any-return]

    def _open(self, client: socket.socket) -> C:
        client = renumbered(client, self._supervisor.lowest)
        if client.fileno() >= self._board.descriptors:
            client.close()
            raise OSError(errno.EMFILE, "too many open connections")
        if client.family != getattr(socket, "AF_UNIX", None) and STAMPS:
            client.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        connection = self._connect(client)
        number, generation = connection.descriptor, next(self._generations)
        connection.name = f"connection-{generation}"
        self.cells(number)[:] = memoryview(struct.pack("qqqq", 0, 0, generation, 0)).cast("q")
        if self._arrivals is not None:
            self._arrivals.register(number, ARRIVAL)
        self._supervisor.live.opened(number, generation)
        return connection

    def cells(self, number: int) -> memoryview:
        return self._board.connections[number * CONNECTION_CELLS : (number + 1) * CONNECTION_CELLS]

    def _forget(self, connection: C) -> None:
        number = connection.descriptor
        if self._knows(connection):
            self._ready.disarm(number)
            if self._arrivals is not None:
                self._arrivals.unregister(number)
            self.lent.pop(number, None)
            self.unsettled.discard(number)
            with suppress(OSError):  # other processes hold it too
                connection.socket.shutdown(socket.SHUT_RDWR)
            self._supervisor.live.closed(number, self.cells(number)[GENERATION])
        super()._forget(connection)

    def _take_in(self, connection: C) -> None:
        connection.read()
        if connection.is_heavy:
            self._weigh(connection)
        self._advance(connection)
        self._offer(connection)

    def answer(self, task: Task, outcome: Frame) -> None:
        connection: C = task.route
        if connection.descriptor in self.lent:
            self._answer_lent(connection, task, outcome)
            return
        self._reply(connection, outcome)
        if self._knows(connection):
            connection.is_settled = False
            self._advance(connection)
            self._offer(connection)

    def _offer(self, connection: C) -> None:
        """Lend a connection, if nothing of it is pending."""
        number = connection.descriptor
        if number in self.lent or not (self._knows(connection) and connection.is_between_messages):
            return
        if not (connection.is_settled and connection.is_idle and self._supervisor.may_lend(connection)):
            return
        self._readiness.forget(number)
        connection.watched = (False, False)
        cells = self.cells(number)
        cells[SENT], cells[CONSUMED] = self.written_and_read(connection)
        cells[SEEN] = 0
        self.lent[number] = next(self._times)
        self._arm(number)

    def _arm(self, number: int) -> None:
        """Arm a connection. What lies on it already counts as an arrival."""
        self._ready.arm(number)
        if self._arrivals is not None:
            self._arrivals.modify(number, ARRIVAL)

    @staticmethod
    def written_and_read(connection: C) -> tuple[int, int]:
        try:
            while True:
                acked, received = _counts(connection.socket)
                waiting = struct.unpack("i", fcntl.ioctl(connection.socket, termios.TIOCOUTQ, bytes(4)))[0]
                unread = struct.unpack("i", fcntl.ioctl(connection.socket, termios.FIONREAD, bytes(4)))[0]
                if _counts(connection.socket) == (acked, received):  # else some were counted twice, or not at all
                    return acked + waiting, received - unread
        except (OSError, struct.error, AttributeError):
            return 0, 0

    def take(self, number: int) -> bool:
        """Take a lent connection back, unless a worker is at it; that one may be about to arm it again.

        Reports of workers are read meanwhile, so that others may be lent no more.
        """
        if number not in self.lent:
            self.unsettled.discard(number)
            return False
        self._ready.disarm(number)
        if any(row.is_at(number) for row in self._supervisor.live.rows):
            self.unsettled.add(number)
            return False
        self.unsettled.discard(number)
        times = self.lent[number]
        self._supervisor.read_reports()  # a worker may have left it just before: it says so before it is at nothing
        return self.lent.get(number) == times

    def unsettle(self, number: int) -> None:
        self.unsettled.add(number)

    def settle_taken(self) -> None:
        for number in list(self.unsettled):
            if self.take(number):
                self._ready.arm(number)

    def reclaim(self, number: int, data: bytes = b"") -> C | None:
        connection = self.connections.get(number)
        if connection is None or number not in self.lent:
            return None
        self.lent.pop(number, None)
        self.unsettled.discard(number)
        connection.is_settled = False
        if data:
            connection.feed(data)
            self._advance(connection)
        if self._knows(connection):
            self._take_in(connection)
        return connection

    def offer_all(self) -> None:
        for connection in list(self.connections.values()):
            self._offer(connection)

    def socket_of(self, number: int) -> socket.socket:
        return self.connections[number].socket

    def generations(self) -> Iterator[tuple[int, int]]:
        for number in self.connections:
            yield number, self.cells(number)[GENERATION]

    @property
    def readiness_descriptor(self) -> int:
        return self._readiness.descriptor

    def close_lent(self, connection: C) -> None:
        self.reclaim(connection.descriptor)
        self._forget(connection)

    def arrivals(self) -> Iterator[C]:
        if self._arrivals is not None:
            numbers = [number for number, _ in self._arrivals.poll(0, ARRIVALS_A_TURN)]
        else:
            numbers = list(self.lent)
        for number in numbers:
            if number in self.lent:
                yield self.connections[number]

    @staticmethod
    def peek(connection: C) -> bytes | None:
        try:
            return connection.socket.recv(CHUNK, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _answer_lent(self, connection: C, task: Task, data: Frame) -> None:
        """Answer the request that lies on a lent connection, which `take` has taken back, and lend it again."""
        number = connection.descriptor
        if task.size:  # else its worker has taken it off
            connection.socket.recv(task.size)
        connection.send(data)
        if connection.is_settled:
            cells = self.cells(number)
            cells[SENT] += len(data)
            cells[CONSUMED] += task.size
            cells[SEEN] = 0
            self._arm(number)
        else:
            self.reclaim(number)

    def unsent(self, number: int, data: Any) -> None:
        connection = self.connections.get(number)
        if connection is not None and data is None:
            self.close_lent(connection)
        elif connection is not None:
            self.lent.pop(number, None)
            connection.is_settled = False
            connection.send(data)
            self._advance(connection)
            self._offer(connection)

    def close(self) -> None:
        super().close()
        if self._arrivals is not None:
            self._arrivals.close()


def _counts(connection: socket.socket) -> tuple[int, int]:
    """Return how many bytes were acknowledged by the client, and how many it sent."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    acked, received = struct.unpack_from("=QQ", info, BYTES_ACKED)
    return acked, received
