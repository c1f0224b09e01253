"""Where HTTP requests come in and responses go out: all connections, and what each waits for."""

from __future__ import annotations

import itertools
import logging
import queue
import socket
import threading
from collections import Counter
from time import monotonic

from imdb_serving.errors import ServingError
from imdb_serving.transports.http.connection import Connection
from imdb_serving.transports.http.json_wire import PREDICTION_PATH
from imdb_serving.transports.http.parsing import HttpRequest
from imdb_serving.transports.http.problems import (
    BODY,
    DEADLINE,
    RECEIVED_NS,
    code_of_refusal,
    failed,
    problem_of,
    refusal,
    request_seconds,
)
from imdb_serving.transports.http.responses import Application, base_environ, call
from imdb_serving.transports.streams.front import StreamFront
from imdb_serving.workers.front import Task

log = logging.getLogger(__name__)

IDLE_SECONDS = 120.0
END_SECONDS = 0.5


class HttpFront(StreamFront[Connection]):
    """All connections of an application; a connection's requests are answered one at a time, in order."""

    def __init__(self, listener: socket.socket, app: Application) -> None:
        """Take the listening socket and the application."""
        super().__init__(listener)
        self._app = app
        self.counts: Counter[str] = Counter()  # changes under the lock
        self._numbers = itertools.count(1)
        host, port = listener.getsockname()[:2]
        self._environ = base_environ(host, port)
        self._others: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._helper = threading.Thread(target=self._help, name="http-helper", daemon=True)
        self._helper.start()

    def _open(self, client: socket.socket) -> Connection:
        return Connection(client, self._app.config["MAX_CONTENT_LENGTH"])

    def _is_stale(self, connection: Connection, idle_seconds: float) -> bool:
        return connection.at_work is None and idle_seconds > IDLE_SECONDS

    def client(self, task: Task) -> str:
        """Return a name of the connection, for the log; see `Front`."""
        return task.route[0].name  # type: ignore[no-any-return]

    def owner(self, task: Task) -> Connection:
        """Return the connection."""
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
        """Put a request to work; tell whether it is answered already."""
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
        """Send a response, and go on with its connection."""
        self._answer(task.route[0], outcome)

    def _answer(self, connection: Connection, data: bytes) -> None:
        connection.reply(data)
        with self._guard:
            if self._knows(connection):
                self._advance(connection)

    def fail(self, task: Task, error: ServingError) -> None:
        """Send a problem document in place of a response."""
        connection, request = task.route
        self._answer(connection, problem_of(error, request))

    def close(self) -> None:
        """Close everything."""
        self._others.put(None)
        self._helper.join(END_SECONDS)
        super().close()
