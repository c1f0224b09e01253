"""One client's connection at the server: bytes in, bytes out, and a clean end. It never blocks."""

from __future__ import annotations

import errno
import itertools
import socket
from abc import ABC, abstractmethod
from time import monotonic

from imdb_serving.errors import ServingError
from imdb_serving.protocol.framing import Frame

SHORTAGES = frozenset({errno.ENOBUFS, errno.ENOMEM})
"""Errors of a call on a socket that say that the system is short of memory for the moment."""

CHUNK = 1 << 16
MESSAGE_SECONDS = 30.0
LEAST_RATE = 16 << 10
"""A message must be whole `MESSAGE_SECONDS` after its first byte, and one second more for so many bytes of it."""

UNREAD_SECONDS = 60.0
"""How long answers may be left unread, and one second more for each `LEAST_RATE` bytes that were read meanwhile."""

_numbers = itertools.count(1)


class StreamConnection(ABC):
    """The server's side of a connection; what its bytes mean is for whoever derives from it."""

    def __init__(self, client: socket.socket) -> None:
        """Take an accepted socket."""
        client.setblocking(False)
        if client.family != getattr(socket, "AF_UNIX", None):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.socket = client
        self.descriptor = client.fileno()
        self.name = f"connection-{next(_numbers)}"
        self.touched = monotonic()
        self.lingering = False
        self.closed = False
        self.is_settled = False
        self.watched = (False, False)
        self.answered = 0
        self.weighed = 0  # of `held_bytes`, what its listener has counted
        self.is_heavy = False  # that has changed, or is not nothing
        self.begun = 0.0  # when the message began that is not whole yet; 0 when there is none
        self._unsent = b""
        self._unread_since = 0.0  # when answers began to be kept; 0 while none are
        self._read_since = 0  # bytes of them that the client has read
        self.ended = False

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Take in what has arrived."""

    @property
    @abstractmethod
    def wants_to_read(self) -> bool:
        """False while so much is at work, or unsent, that no more shall be taken in."""

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """True when there is nothing to answer and nothing to send."""

    @property
    @abstractmethod
    def begun_bytes(self) -> int:
        """Bytes of the message that has begun to arrive and is not whole yet; 0 when there is none."""

    @property
    @abstractmethod
    def is_between_messages(self) -> bool:
        """Whether it is certain that nothing of a message has been read which is not whole yet."""

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """About how many bytes of memory its messages and answers take, but for those that were passed on."""

    @abstractmethod
    def refuse(self, error: ServingError) -> None:
        """Have an error be the last answer: nothing more is read."""

    def time_begun_message(self, *, restart: bool = False) -> None:
        """Note when the message began that is not whole yet; `restart` says that it is another one than before."""
        if not self.begun_bytes:
            self.begun = 0.0
        elif restart or not self.begun:
            self.begun = monotonic()

    def seconds_held(self, now: float) -> float:
        """Return for how long it has held what it holds."""
        return now - (self.begun or self._unread_since or self.touched)

    def is_unread(self, now: float) -> bool:
        """Tell whether the client reads its answers too slowly."""
        allowed = UNREAD_SECONDS + self._read_since / LEAST_RATE
        return bool(self._unread_since) and now - self._unread_since > allowed

    def is_late(self, now: float) -> bool:
        """Tell whether a message has taken longer to arrive than its size allows."""
        return bool(self.begun) and now - self.begun > MESSAGE_SECONDS + self.begun_bytes / LEAST_RATE

    def read(self) -> None:
        """Take in what has arrived."""
        data = self.arrived()
        if data:
            self.feed(data)

    def arrived(self) -> bytes:
        """Return what has arrived. While lingering it is thrown away: the client shall read our last word in peace."""
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:  # reset: nothing can be said any more either
            if error.errno not in SHORTAGES:
                self.closed, self.is_settled = True, False
            return b""
        if not data:
            self.ended, self.is_settled = True, False
        return b"" if self.lingering else data

    def send(self, data: Frame, answers: int = 0) -> None:
        """Send, as the answer to so many requests; what does not fit now is kept, for `flush`."""
        self.answered += answers
        if self._unsent:
            self._unsent += bytes(data)
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.ended = self.closed = error.errno not in SHORTAGES
            sent = 0
        if sent != len(data):
            self._unsent, self.is_settled = b"" if self.closed else bytes(data[sent:]), False
            self._unread_since = self._unread_since or monotonic()
            self.is_heavy = True

    def settle(self) -> None:
        """Note whether nothing is pending."""
        pending = self._unsent or self.ended or self.closed or self.lingering
        self.is_settled = self.watched == (True, False) and not pending

    def flush(self) -> None:
        """Send more of what is kept."""
        self.touched = monotonic()
        unsent, self._unsent = self._unsent, b""
        self.send(unsent)
        self._read_since += len(unsent) - len(self._unsent)
        if not self._unsent:
            self._unread_since, self._read_since = 0.0, 0

    @property
    def wants_to_write(self) -> bool:
        """True while a part of an answer is kept."""
        return bool(self._unsent)

    @property
    def is_over(self) -> bool:
        """True when nothing more can come of it, or need be said."""
        return self.closed or (self.ended and self.is_idle)

    def end_writing(self) -> None:
        """Tell the client that this was the last word."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.closed = True

    def part(self) -> None:
        """Say the last word, and throw away what has arrived: a close with that unread would reset the connection.

        Then the client could lose the answers which it has not read yet.
        """
        self.lingering = True
        self.end_writing()
        while not (self.closed or self.ended):
            try:
                self.ended = not self.socket.recv(CHUNK)
            except OSError:
                return

    def close(self) -> None:
        """Close it."""
        self.closed = True
        self.socket.close()
