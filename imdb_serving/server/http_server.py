"""The web server for the Flask application: server threads that share one epoll; and Werkzeug's, as published.

Requests are read whole before a thread works on one, so a slow client delays nobody; the next free thread takes the
next request, whoever sent it, and a request that waits carries the stamp of its arrival. Health and the page have a
thread of their own, so that these are answered while all N are busy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic, perf_counter_ns
from typing import TYPE_CHECKING, Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from imdb_serving.server.http_listener import HttpListener
from imdb_serving.server.http_responses import Application
from imdb_serving.server.server_threads import ServerThreads
from imdb_serving.server.startup import Starter, listen
from imdb_serving.server.watchdog import Watchdog

if TYPE_CHECKING:
    from flask import Flask

DRAIN_SECONDS = 10.0
KEEP_SECONDS = 0.5


class HttpServer:
    """Serves an application with N threads. Make it, `run` it in one thread; `stop` may be called from anywhere."""

    def __init__(
        self,
        app: Application,
        host: str,
        port: int,
        threads: int,
        *,
        replace_stuck: Callable[[int | None], None] | None = None,
        drain_timeout: float = DRAIN_SECONDS,
        **limits: int,
    ) -> None:
        """Listen; raises `ServerStartError` when the address cannot be had. Nothing is answered before `run`."""
        self._app = app
        self._drain_timeout = drain_timeout
        self._stopping = False
        listening = listen(host, port)
        self.url = url(host, listening.getsockname()[1])
        self.listener = HttpListener(listening, app)
        self.threads = ServerThreads(
            self.listener, threads, self.listener.work, trusted=replace_stuck is None, **limits
        )
        self._watchdog = Watchdog(self.threads, replace_stuck)

    def stop(self) -> None:
        """Ask `run` to answer what has arrived, then return."""
        self._stopping = True
        self._watchdog.rouse()

    def run(self, starter: Starter | None = None, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`; then requests in work are answered, new ones refused, for at most `drain_timeout`.

        While a `starter` is at work requests are refused with what it says; `on_ready` is called behind it.
        """
        try:
            if starter is not None:
                self.threads.refusing = starter.refusal
            self.threads.start()
            if starter is not None and not starter.run(self._watchdog.keep, lambda: self._stopping):
                return
            self.threads.refusing = None
            on_ready()
            self._serve()
            while self.listener.receive():  # what had arrived before the stop is still answered
                pass
            self._app.config["DRAINING"] = perf_counter_ns()
            until = monotonic() + self._drain_timeout
            self._watchdog.drain(self._drain_timeout)
            while not self.listener.is_quiet() and monotonic() < until:
                self.listener.receive()
                self._watchdog.keep(0.01)
        finally:
            self.threads.stop()
            self.listener.close()

    def _serve(self) -> None:
        while not self._stopping:
            self._watchdog.keep(KEEP_SECONDS)


def url(host: str, port: Any) -> str:
    """Return a server's address as clients write it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


DEV_READ_SECONDS = 10.0
DEV_BACKLOG = 128


class _DevHandler(WSGIRequestHandler):
    """Werkzeug's handler, with a limit on how long one client may keep the only thread waiting."""

    timeout = DEV_READ_SECONDS


class DevServer:
    """Werkzeug's development server as published: one process, one thread, a new connection for every request."""

    def __init__(self, app: Flask, host: str, port: int) -> None:
        """Listen; raises `ServerStartError` when the address cannot be had."""
        # Werkzeug, left to listen by itself, prints why it cannot and exits.
        with listen(host, port, DEV_BACKLOG) as listening:
            self._server: BaseWSGIServer = make_server(
                host, port, app, threaded=False, processes=1, request_handler=_DevHandler, fd=listening.fileno()
            )
            self.url = url(host, listening.getsockname()[1])
        self._over = threading.Event()

    def stop(self) -> None:
        """Ask `run` to finish the request it is at, then return."""
        self._over.set()

    def run(self, starter: Starter, on_ready: Callable[[], None]) -> None:
        """Serve until `stop`; see `HttpServer.run`. What the application says while it starts is its backend's."""
        serving = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="dev-server", daemon=True)
        serving.start()
        try:
            if starter.run(self._over.wait, self._over.is_set):
                on_ready()
                while not self._over.wait(KEEP_SECONDS):
                    pass
        finally:
            self._server.shutdown()
            serving.join()
            self._server.server_close()
