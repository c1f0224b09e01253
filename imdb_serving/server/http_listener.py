"""The listener for HTTP: all connections, one request at a time on each, and the responses.

Pipelined requests wait for the answer of the one before. All calls but `reply` are made with the listener's lock held;
`reply` is called by the one thread that finishes the request.
"""

from __future__ import annotations

import itertools
import logging
import queue
import socket
import threading
from collections import Counter
from http import HTTPStatus
from time import monotonic

from imdb_serving.errors import Overloaded, RequestTimeout, ServingError
from imdb_serving.protocol.json_bodies import PREDICTION_PATH, code_of_refusal
from imdb_serving.server.connection import StreamConnection
from imdb_serving.server.http_parsing import HttpRequest, RequestParser
from imdb_serving.server.http_responses import (
    BODY,
    DEADLINE,
    RECEIVED_NS,
    Application,
    base_environ,
    call,
    failed,
    problem_of,
    refusal,
    request_seconds,
)
from imdb_serving.server.request_queue import Task
from imdb_serving.server.stream_listener import StreamListener

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
        return self._parser.begun_bytes

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
        return self.lingering or not self._parser.requests

    @property
    def is_idle(self) -> bool:
        return not self.at_work and not self._unsent and not self._parser.requests


log = logging.getLogger(__name__)

IDLE_SECONDS = 120.0
END_SECONDS = 0.5


class HttpListener(StreamListener[Connection]):
    """All connections of an application; a connection's requests are answered one at a time, in order."""

    def __init__(self, listening: socket.socket, app: Application) -> None:
        super().__init__(listening)
        self._app = app
        self.counts: Counter[str] = Counter()  # changes under the lock
        self._numbers = itertools.count(1)
        host, port = listening.getsockname()[:2]
        self._environ = base_environ(host, port)
        self._others: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._helper = threading.Thread(target=self._help, name="http-helper", daemon=True)
        self._helper.start()

    def _open(self, client: socket.socket) -> Connection:
        return Connection(client, self._app.config["MAX_CONTENT_LENGTH"])

    def _is_stale(self, connection: Connection, idle_seconds: float) -> bool:
        return connection.at_work is None and idle_seconds > IDLE_SECONDS

    def client(self, task: Task) -> str:
        return task.route[0].name  # type: ignore[no-any-return]

    def owner(self, task: Task) -> Connection:
        return task.route[0]  # type: ignore[no-any-return]

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
        if request.path != PREDICTION_PATH or request.method != "POST":
            self._others.put(connection)
            return False
        number, size = next(self._numbers), len(request.body)
        try:
            deadline = monotonic() + request_seconds(request)
            self.submit(Task((connection, request), number, request.received_ns, deadline, None, size))
        except ServingError as error:
            self.counts[error.code] += 1
            connection.reply(problem_of(error, request))
            return True
        return False

    def _help(self) -> None:
        """Answer what needs no worker."""
        while (connection := self._others.get()) is not None:
            if connection.at_work is not None:
                self._answer(connection, self.respond(connection.at_work))

    def work(self, task: Task) -> bytes:
        """Have the application answer a prediction."""
        data = self.respond(task.route[1], task.deadline)
        return data if data[9:12] == b"200" else failed(data)

    def respond(self, request: HttpRequest, deadline: float | None = None) -> bytes:
        """Have the application answer a request; what it raises has been answered by it, so this is our own fault."""
        base = {**self._environ, RECEIVED_NS: request.received_ns, BODY: request.body, DEADLINE: deadline}
        try:
            return call(self._app.wsgi_app, request, base)
        except Exception as error:
            log.exception("a request failed")
            return problem_of(error, request)

    def answer(self, task: Task, outcome: bytes) -> None:
        self._answer(task.route[0], outcome)

    def _answer(self, connection: Connection, data: bytes) -> None:
        connection.reply(data)
        with self._guard:
            if self._knows(connection):
                self._advance(connection)

    def fail(self, task: Task, error: ServingError) -> None:
        connection, request = task.route
        self._answer(connection, problem_of(error, request))

    def close(self) -> None:
        """Close everything."""
        self._others.put(None)
        self._helper.join(END_SECONDS)
        super().close()
