"""The web servers that the Flask application runs behind: waitress, and Werkzeug's own as published.

`HttpServer` is waitress with exactly N threads for predictions. Its event loop reads requests whole before a thread
sees them, so a slow client holds up nobody, and a free thread takes the next request whoever sent it.
"""

from __future__ import annotations

import logging
import socket
import threading
from http import HTTPStatus
from time import monotonic, perf_counter_ns
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import create_server
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import BadRequest as MalformedHead
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from imdb_serving.errors import BadRequest, Overloaded, RemoteFailure, ServerStartError
from imdb_serving.transports.http import json_wire
from imdb_serving.transports.http.app import RECEIVED_NS, RETRY_AFTER_SECONDS
from imdb_serving.transports.http.json_wire import PREDICTION_PATH, PROBLEM
from imdb_serving.workers.crew import MAX_QUEUE

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger(__name__)

IDLE_SECONDS = 120
MAX_CONNECTIONS = 10_000
DEV_READ_SECONDS = 10.0
DRAIN_SECONDS = 10.0
END_SECONDS = 0.5
BACKLOG, DEV_BACKLOG = 1024, 128


class _StampedRequest(HTTPRequestParser):
    """Knows when it was complete: there the wait for a free thread begins."""

    received_ns = 0

    def received(self, data: bytes) -> int:
        try:
            taken: int = super().received(data)
        except ValueError as error:  # for these waitress would close without a word and log a trace
            self.error, self.completed = MalformedHead(str(error)), True
            taken = len(data)
        if self.completed:
            self.received_ns = perf_counter_ns()
        return taken


class _Task(WSGITask):
    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[RECEIVED_NS] = self.request.received_ns
        return environ


class _Full:
    """What a request is refused with when as many wait as may; has the members of waitress's own errors."""

    code, reason = HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE.phrase
    body = f"{MAX_QUEUE} requests wait already, as many as this server lets wait; try again later"


class _Problem(ErrorTask):
    """Answers what is no HTTP, or too large, or too much, as the application would."""

    def execute(self) -> None:
        error = self.request.error
        status = HTTPStatus(error.code)
        code = RemoteFailure.code if status >= HTTPStatus.INTERNAL_SERVER_ERROR else BadRequest.code
        if isinstance(error, _Full):
            code = Overloaded.code
            self.response_headers.append(("Retry-After", RETRY_AFTER_SECONDS))
        detail = str(error.body)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            limit = self.channel.adj.max_request_body_size
            detail = f"the body is larger than this server takes, {limit} bytes; send smaller batches"
        body = json_wire.encode_problem_details(status, status.phrase, detail, code)
        self.status = f"{status.value} {status.phrase}"
        self.response_headers.append(("Content-Type", PROBLEM))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):
    parser_class = _StampedRequest
    task_class = _Task
    error_task_class = _Problem


class _Dispatcher:
    """N threads for predictions and one for everything else, so that health is answered while all N are busy."""

    def __init__(self, threads: int) -> None:
        self.predictions, self.others = ThreadedTaskDispatcher(), ThreadedTaskDispatcher()
        self.predictions.queue_logger = self.others.queue_logger = logging.getLogger("imdb_serving.silent")
        self.predictions.queue_logger.disabled = True  # a queue is no news here: it is what is measured
        self.predictions.set_thread_count(threads)
        self.others.set_thread_count(1)

        self.draining_ns = 0

    def add_task(self, channel: HTTPChannel) -> None:
        request = channel.requests[0]
        # Waitress makes one slash of several at the start, so all these are predictions.
        prediction = request.error is None and "/" + request.path.lstrip("/") == PREDICTION_PATH
        refused = 0 < self.draining_ns < request.received_ns  # at once, not behind what is still in work
        if prediction and not refused and len(self.predictions.queue) >= MAX_QUEUE:
            request.error, refused = _Full(), True
        (self.predictions if prediction and not refused else self.others).add_task(channel)

    def shutdown(self) -> None:
        self.others.shutdown(timeout=END_SECONDS)
        self.predictions.shutdown(timeout=END_SECONDS)


class HttpServer:
    """Serves an application with N threads. Make it, `run` it in one thread; `stop` may be called from anywhere."""

    def __init__(self, app: Flask, host: str, port: int, threads: int, *, drain_timeout: float = DRAIN_SECONDS) -> None:
        """Listen; raises `ServerStartError` when the address cannot be had. Nothing is answered before `run`."""
        self._app = app
        self._drain_timeout = drain_timeout
        self._sockets: dict[int, Any] = {}
        self._stopping = self._ended = False
        # Waitress, left to listen by itself, takes one socket an address of the host, each with another free port.
        listener = _listen(host, port, BACKLOG)
        self._dispatcher = _Dispatcher(threads)
        self._server = create_server(
            app,
            self._sockets,
            _dispatcher=self._dispatcher,
            sockets=[listener],
            ident=None,
            threads=threads,
            asyncore_use_poll=True,
            channel_timeout=IDLE_SECONDS,
            connection_limit=MAX_CONNECTIONS,
            max_request_body_size=app.config["MAX_CONTENT_LENGTH"],
            log_socket_errors=False,
        )
        self._server.channel_class = _Channel
        self.url = _url(host, self._server.effective_port)

    def stop(self) -> None:
        """Ask `run` to answer what has arrived, then return."""
        self._stopping = True
        if not self._ended:  # afterwards the trigger's descriptor is closed, or another file's
            self._server.pull_trigger()

    def run(self) -> None:
        """Serve until `stop`; then requests in work are answered, new ones refused, for at most `drain_timeout`."""
        try:
            while not self._stopping:
                self._turn(1.0)
            self._turn(0.0)  # what had arrived before the stop is still answered
            self._app.config["DRAINING"] = self._dispatcher.draining_ns = perf_counter_ns()
            give_up = monotonic() + self._drain_timeout
            while self._busy() and monotonic() < give_up:
                self._turn(0.05)
        finally:
            self._ended = True
            self._dispatcher.shutdown()
            wasyncore.close_all(self._sockets)

    def _turn(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._sockets, count=1)

    def _busy(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(channel.requests or channel.total_outbufs_len for channel in channels)


class _DevHandler(WSGIRequestHandler):
    """Werkzeug's handler, with a limit on how long one client may keep the only thread waiting."""

    timeout = DEV_READ_SECONDS


class DevServer:
    """Werkzeug's development server as published: one process, one thread, a new connection for every request."""

    def __init__(self, app: Flask, host: str, port: int) -> None:
        """Listen; raises `ServerStartError` when the address cannot be had."""
        # Werkzeug, left to listen by itself, prints why it cannot and exits.
        with _listen(host, port, DEV_BACKLOG) as listener:
            self._server: BaseWSGIServer = make_server(
                host, port, app, threaded=False, processes=1, request_handler=_DevHandler, fd=listener.fileno()
            )
            self.url = _url(host, listener.getsockname()[1])

    def stop(self) -> None:
        """Ask `run` to finish the request it is at, then return."""
        # From another thread: a signal handler interrupts the very loop that `shutdown` waits for.
        threading.Thread(target=self._server.shutdown, daemon=True).start()

    def run(self) -> None:
        """Serve until `stop`."""
        try:
            self._server.serve_forever(poll_interval=0.1)
        finally:
            self._server.server_close()


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=backlog)
    except (OSError, ValueError) as error:
        raise ServerStartError(f"cannot listen on {host}:{port}: {error}; choose another port") from error


def _url(host: str, port: object) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
