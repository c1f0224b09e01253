"""One client's HTTP connection: bytes in, requests one at a time, responses out, and a clean end.

A request is at work or none is; those behind it (pipelined) wait for its answer. All calls but `reply` are made with
the front's lock held; `reply` is made by the one thread that claimed the request.
"""

from __future__ import annotations

import socket
from http import HTTPStatus
from time import monotonic

from imdb_serving.errors import Overloaded, RequestTimeout, ServingError
from imdb_serving.transports.http.parsing import HttpRequest, RequestParser
from imdb_serving.transports.streams.connection import StreamConnection

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REFUSALS: dict[type[ServingError], HTTPStatus] = {
    Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    RequestTimeout: HTTPStatus.REQUEST_TIMEOUT,
}


class Connection(StreamConnection):
    """The server's side of a connection."""

    def __init__(self, client: socket.socket, max_body_bytes: int) -> None:
        """Take an accepted socket."""
        super().__init__(client)
        self.at_work: HttpRequest | None = None
        self._parser = RequestParser(max_body_bytes)

    def feed(self, data: bytes) -> None:
        """Parse what has arrived."""
        self.touched = monotonic()
        parser = self._parser
        completed = parser.completed
        parser.feed(data)
        if parser.fed or parser.url or self.begun:
            self.time_begun_message(restart=parser.completed != completed)
            self.is_heavy = True
        elif self.at_work is not None or len(parser.requests) > 1:
            self.is_heavy = True

    @property
    def begun_bytes(self) -> int:
        """Bytes of the request that is not whole yet."""
        return self._parser.begun_bytes

    @property
    def held_bytes(self) -> int:
        """About how many bytes of memory it takes; see `StreamConnection`."""
        return self._parser.held_bytes + len(self._unsent)

    def refuse(self, error: ServingError) -> None:
        """Have an error be the last answer; see `StreamConnection`."""
        self._parser.requests.clear()
        self._parser.refuse(REFUSALS[type(error)], str(error))
        self.time_begun_message()

    def next(self) -> HttpRequest | None:
        """Return the request that is to be answered now, if there is one and nothing else is at work or unsent.

        A client that waits for it is told to send the body of its request once all before are answered.
        """
        if self.at_work or self._unsent:
            return None
        if self._parser.requests:
            self.at_work = self._parser.requests.pop(0)
        elif self._parser.awaits_continue:
            self._parser.awaits_continue = False
            self.send(CONTINUE)
        return self.at_work

    def reply(self, data: bytes) -> None:
        """Send the response to the request at work; what does not fit now is kept, for `flush`."""
        self.touched = monotonic()
        request = self.at_work
        self.send(data)
        if request is not None and not request.keep:
            self._parser.requests.clear()
            self.lingering = True
        self.at_work = None

    @property
    def wants_to_read(self) -> bool:
        """False while requests wait behind the one at work, or behind a response that does not leave."""
        return self.lingering or not self._parser.requests

    @property
    def is_idle(self) -> bool:
        """True when there is nothing to answer and nothing to send."""
        return not self.at_work and not self._unsent and not self._parser.requests
