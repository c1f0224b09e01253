"""One client's connection: bytes in, requests one at a time, responses out, and a clean end. It never blocks.

A request is at work or none is; those behind it (pipelined) wait for its answer. All calls but `reply` are made with
the front's lock held; `reply` is made by the one thread that claimed the request.
"""

from __future__ import annotations

import socket
from time import monotonic

from imdb_serving.transports.http.parsing import HttpRequest, RequestParser

CHUNK = 1 << 16
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection:
    """The server's side of a connection."""

    def __init__(self, client: socket.socket, max_body_bytes: int) -> None:
        """Take an accepted socket."""
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = client
        self.descriptor = client.fileno()
        self.at_work: HttpRequest | None = None
        self.touched = monotonic()
        self.lingering = False
        self.closed = False
        self._parser = RequestParser(max_body_bytes)
        self._unsent = b""
        self._ended = False

    def read(self) -> None:
        """Take in what has arrived. While lingering it is thrown away: the client shall read our last word in peace."""
        self.touched = monotonic()
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:  # reset: nothing can be said any more either
            self.closed = True
            return
        if not data:
            self._ended = True
        elif not self.lingering:
            self._parser.feed(data)
            if self._parser.continues and not self.at_work and not self._parser.requests:
                self._parser.continues = 0
                self._send(CONTINUE)

    def next(self) -> HttpRequest | None:
        """Return the request that is to be answered now, if there is one and nothing else is at work or unsent."""
        if self.at_work or self._unsent or not self._parser.requests:
            return None
        self.at_work = self._parser.requests.pop(0)
        return self.at_work

    def reply(self, data: bytes) -> None:
        """Send the response to the request at work; what does not fit now is kept, for `flush`."""
        self.touched = monotonic()
        request = self.at_work
        self._send(data)
        if request is not None and not request.keep:
            self._parser.requests.clear()
            self.lingering = True
        self.at_work = None

    def flush(self) -> None:
        """Send more of what is kept."""
        unsent, self._unsent = self._unsent, b""
        self._send(unsent)
        self.touched = monotonic()

    def _send(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._ended = self.closed = True
            return
        self._unsent = data[sent:]

    @property
    def wants_to_write(self) -> bool:
        """True while a part of a response is kept."""
        return bool(self._unsent)

    @property
    def is_idle(self) -> bool:
        """True when there is nothing to answer and nothing to send."""
        return not self.at_work and not self._unsent and not self._parser.requests

    @property
    def is_over(self) -> bool:
        """True when nothing more can come of it, or need be said."""
        return self.closed or (self._ended and self.is_idle)

    def end_writing(self) -> None:
        """Tell the client that this was the last word."""
        if self.lingering and not self._unsent:
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.closed = True

    def close(self) -> None:
        """Close it."""
        self.closed = True
        self.socket.close()
