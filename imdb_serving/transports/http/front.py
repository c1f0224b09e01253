"""Where HTTP requests come in and responses go out: the listening socket, all connections, and what each waits for."""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from imdb_serving.errors import ServingError
from imdb_serving.transports.http.connection import Connection
from imdb_serving.transports.http.json_wire import PREDICTION_PATH
from imdb_serving.transports.http.parsing import HttpRequest
from imdb_serving.transports.http.problems import RECEIVED_NS, problem_of, refusal, request_seconds
from imdb_serving.transports.http.responses import base_environ, call
from imdb_serving.workers.bell import Bell
from imdb_serving.workers.front import Task
from imdb_serving.workers.readiness import EVENTS_A_TURN, make_readiness

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger(__name__)

IDLE_SECONDS = 120.0
LINGER_SECONDS = 2.0
SWEEP_SECONDS = 1.0
SHORT_SECONDS = 0.005
END_SECONDS = 0.5
ACCEPTED_A_TURN = 64


class HttpFront:
    """The listening socket and all connections.

    A connection is armed for one event at a time, by whoever is done with it; reading and arming are done with `_guard`
    held, and so is everything else but working on a request and sending its response.
    """

    submit: Callable[[Task], None]

    def __init__(self, listener: socket.socket, app: Flask) -> None:
        """Take the listening socket and the application."""
        self._listener, self._app = listener, app
        listener.setblocking(False)
        host, port = listener.getsockname()[:2]
        self._environ = base_environ(host, port)
        self._guard = threading.RLock()
        self._readiness = make_readiness()
        self._readiness.arm(listener.fileno())
        self._bell = Bell(*self._readiness.descriptors)
        self._wait_seconds = SWEEP_SECONDS if self._readiness.descriptors else SHORT_SECONDS
        self.connections: dict[int, Connection] = {}
        self._others: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._helper = threading.Thread(target=self._help, name="http-helper", daemon=True)
        self._helper.start()
        self._swept = monotonic()

    def receive(self) -> bool:
        """Read what has arrived; see `Front`."""
        with self._guard:
            events = self._readiness.ready()
            for descriptor, writable in events:
                if descriptor == self._listener.fileno():
                    self._accept()
                elif connection := self.connections.get(descriptor):
                    if writable:
                        connection.flush()
                    else:
                        connection.read()
                    self._advance(connection)
        return len(events) == EVENTS_A_TURN

    def _accept(self) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                break
            except OSError as error:  # no descriptor is left: the next sweep arms the listener again
                log.warning("a connection could not be accepted: %s", error)
                return
            connection = Connection(client, self._app.config["MAX_CONTENT_LENGTH"])
            self.connections[connection.descriptor] = connection
            self._readiness.arm(connection.descriptor)
        self._readiness.arm(self._listener.fileno())

    def _advance(self, connection: Connection) -> None:
        """Go on with a connection that nobody works on: the next request, the next event, or its end."""
        while (request := connection.next()) is not None:
            if not self._begin(connection, request):
                return
        if connection.is_over:
            self._forget(connection)
            return
        connection.end_writing()
        self._readiness.arm(connection.descriptor, write=connection.wants_to_write)

    def _begin(self, connection: Connection, request: HttpRequest) -> bool:
        """Put a request to work; tell whether it is answered already."""
        if request.refusal is not None:
            connection.reply(refusal(request))
            return True
        if request.path.decode("latin-1") != PREDICTION_PATH or request.method != "POST":
            self._others.put(connection)
            return False
        deadline = monotonic() + request_seconds(request)
        try:
            self.submit(Task((connection, request), 0, request.received_ns, deadline, (request.body,)))
        except ServingError as error:
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
        return self.respond(task.route[1])

    def respond(self, request: HttpRequest) -> bytes:
        """Have the application answer a request; what it raises has been answered by it, so this is our own fault."""
        base = {**self._environ, RECEIVED_NS: request.received_ns}
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
            if self.connections.get(connection.descriptor) is connection:
                self._advance(connection)

    def fail(self, task: Task, error: ServingError) -> None:
        """Send a problem document in place of a response."""
        connection, request = task.route
        self._answer(connection, problem_of(error, request))

    def look_after(self) -> None:
        """Close what has been idle for long, or lingers, once a second."""
        now = monotonic()
        if now - self._swept >= SWEEP_SECONDS:
            self._swept = now
            with self._guard:
                self._sweep(now)

    def _sweep(self, now: float) -> None:
        self._readiness.arm(self._listener.fileno())
        for connection in list(self.connections.values()):
            limit = LINGER_SECONDS if connection.lingering else IDLE_SECONDS
            if connection.at_work is None and now - connection.touched > limit:
                self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        if self.connections.pop(connection.descriptor, None) is not None:
            self._readiness.forget(connection.descriptor)
            connection.close()

    def wait(self) -> None:
        """Wait for arrivals; see `Front`."""
        self._bell.wait(self._wait_seconds)

    def wake(self) -> None:
        """Have `wait` return."""
        self._bell.ring()

    def is_quiet(self) -> bool:
        """Tell whether every answer has left."""
        return all(connection.is_idle for connection in list(self.connections.values()))

    def close(self) -> None:
        """Close everything."""
        self._others.put(None)
        self._helper.join(END_SECONDS)
        with self._guard:
            for connection in list(self.connections.values()):
                self._forget(connection)
            self._readiness.close()
            self._listener.close()
        self._bell.close()
