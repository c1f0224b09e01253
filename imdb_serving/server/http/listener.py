"""The listener for HTTP: connections on which one request at a time is answered.

Pipelined requests wait for the answer of the one before. What needs no worker is answered by a thread of its own, so
that health and the page are answered while all workers are busy, and however long they take.
"""

from __future__ import annotations

import itertools
import queue
import socket
import threading
from collections import Counter
from http import HTTPStatus
from time import monotonic

from imdb_serving.errors import Overloaded, RequestTimeout, ServingError
from imdb_serving.protocol.framing import Frame
from imdb_serving.protocol.json_bodies import code_of_refusal
from imdb_serving.server.connection import StreamConnection
from imdb_serving.server.http.parsing import HttpRequest, RequestParser
from imdb_serving.server.http.requests import is_prediction
from imdb_serving.server.http.responses import (
    BODY,
    RECEIVED_NS,
    Application,
    base_environ,
    problem_of,
    refusal,
    request_seconds,
    respond,
)
from imdb_serving.server.lending import LendingListener
from imdb_serving.server.listener import Supervisor
from imdb_serving.server.request_queue import Task
from imdb_serving.server.workers.scoreboard import SENT

WHOLE = (b"}", b"\r\n\r\n")
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
        self.sent = -1  # how many bytes had been sent when it was last looked at
        self._ends_whole = True
        self._parser = RequestParser(max_body_bytes)

    def feed(self, data: bytes) -> None:
        self.touched = monotonic()
        parser = self._parser
        completed = parser.completed
        parser.feed(data)
        self._ends_whole = data.endswith(WHOLE)
        if parser.fed or parser.url or self.begun:
            self.time_begun_message(restart=parser.completed != completed)
            self.is_heavy = True
        elif self.at_work is not None or len(parser.requests) > 1:
            self.is_heavy = True

    @property
    def begun_bytes(self) -> int:
        return self._parser.begun_bytes

    @property
    def is_between_messages(self) -> bool:
        """Whether it is certain: of the next request's method the parser does not say that it has begun.

        What ends as a body in JSON, or a head, is no part of a method.
        """
        return self._ends_whole and not self.begun_bytes and not self._parser.requests

    @property
    def held_bytes(self) -> int:
        return self._parser.held_bytes + len(self._unsent)

    def refuse(self, error: ServingError) -> None:
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

    def reply(self, data: Frame) -> None:
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
        return self.lingering or not self._parser.requests

    @property
    def is_idle(self) -> bool:
        return not self.at_work and not self._unsent and not self._parser.requests


IDLE_SECONDS = 120.0
END_SECONDS = 0.5


class HttpListener(LendingListener[Connection]):
    """All connections of an application; a connection's requests are answered one at a time, in order."""

    def __init__(
        self,
        listening: socket.socket,
        endpoint: str,
        app: Application,
        max_body_bytes: int,
        supervisor: Supervisor,
    ) -> None:
        """Take the listening socket, and the application for all but predictions."""
        super().__init__(listening, supervisor)
        self.endpoint = endpoint
        self.counts = Counter()
        self._app, self._max_body = app, max_body_bytes
        self._numbers = itertools.count(1)
        self._environ = base_environ(*listening.getsockname()[:2])
        self._others: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._responses: queue.SimpleQueue[tuple[Connection, bytes]] = queue.SimpleQueue()
        self._helper = threading.Thread(target=self._help, name="http-helper", daemon=True)
        self._helper.start()

    def _connect(self, client: socket.socket) -> Connection:
        return Connection(client, self._max_body)

    def _is_stale(self, connection: Connection, idle_seconds: float) -> bool:
        if connection.at_work is not None or idle_seconds <= IDLE_SECONDS:
            return False
        number = connection.descriptor
        if number not in self.lent:
            return True
        sent = self.cells(number)[SENT]
        if sent == connection.sent and self.take(number):
            self.reclaim(number)  # what may lie there is read, and keeps it open
        connection.sent, connection.touched = sent, monotonic()
        return number not in self.lent and connection.at_work is None

    def receive(self) -> bool:
        while not self._responses.empty():
            self._answer(*self._responses.get())
        return super().receive()

    def _advance(self, connection: Connection) -> None:
        """Begin the next request, or send a refusal."""
        while (request := connection.next()) is not None:
            if not self._begin(connection, request):
                break
        if connection.lingering and not connection.wants_to_write:
            connection.end_writing()
        self._settle(connection)

    def _begin(self, connection: Connection, request: HttpRequest) -> bool:
        """Start a request; return whether it is answered already."""
        if request.refusal is not None:
            self.counts[code_of_refusal(request.refusal[0])] += 1
            connection.reply(refusal(request))
            return True
        if not is_prediction(request):
            self._others.put(connection)
            return False
        try:
            deadline = monotonic() + request_seconds(request)
            number = next(self._numbers)
            self._supervisor.submit(Task(connection, number, request.received_ns, deadline, request, request.size))
        except ServingError as error:
            self.counts[error.code] += 1
            connection.reply(problem_of(error, request))
            return True
        return False

    def _help(self) -> None:
        """Answer what needs no worker."""
        while (connection := self._others.get()) is not None:
            request = connection.at_work
            if request is not None:
                self._responses.put((connection, self._respond(request)))
                self._supervisor.wake()

    def _respond(self, request: HttpRequest) -> bytes:
        base = {**self._environ, RECEIVED_NS: request.received_ns, BODY: request.body}
        return respond(self._app.wsgi_app, request, base)[1]

    def _answer(self, connection: Connection, data: bytes) -> None:
        if self._knows(connection):
            connection.reply(data)
            self._advance(connection)
            self._offer(connection)

    def _reply(self, connection: Connection, data: Frame) -> None:
        connection.reply(data)

    def fail(self, task: Task, error: ServingError) -> None:
        """Answer a request with an error.

        One on a lent connection was not read here. Both versions of HTTP understand what is said to 1.0.
        """
        request = task.route.at_work or HttpRequest("POST", keep=True, version="1.0")
        self.answer(task, problem_of(error, request))

    def close(self) -> None:
        """Close everything."""
        self._others.put(None)
        self._helper.join(END_SECONDS)
        super().close()
