"""The web server for the Flask application, whose workers answer predictions; and Werkzeug's, as published."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from imdb_serving.messages import ServerInfo
from imdb_serving.server.http.listener import HttpListener
from imdb_serving.server.http.requests import HttpCarrier
from imdb_serving.server.http.responses import Application
from imdb_serving.server.listener import Supervisor
from imdb_serving.server.server import Server
from imdb_serving.server.startup import Starter, listen
from imdb_serving.server.workers.units import units_for

if TYPE_CHECKING:
    from flask import Flask

KEEP_SECONDS = 0.5


class HttpService:
    """HTTP at a host and port, for an application."""

    def __init__(
        self, host: str, port: int, max_body_bytes: int, make_app: Callable[[Callable[[], ServerInfo]], Application]
    ) -> None:
        """Listen; raise `ServerStartError` when the address cannot be had.

        `make_app` makes the application for all but predictions, from what returns what the server says of itself.
        """
        self._listening = listen(host, port)
        self._place = self._listening.getsockname()[:2]
        self.url = url(host, self._place[1])
        self._limit, self._make_app = max_body_bytes, make_app
        self.carrier = HttpCarrier(None, max_body_bytes, self._place)

    def answering(self, make_app: Callable[[], Application]) -> functools.partial[HttpCarrier]:
        """Return what makes a worker's carrier, from what makes the application that answers its predictions."""
        return functools.partial(HttpCarrier, make_app, self._limit, self._place)

    def listen(self, supervisor: Supervisor) -> HttpListener:
        """Take connections."""
        return HttpListener(self._listening, self.url, self._make_app(supervisor.introduce), self._limit, supervisor)


class HttpServer(Server):
    """Serves an application; `set_handler` takes what makes the one that answers a worker's predictions.

    It listens from the beginning, at `url`, and answers nothing before `run`.
    """

    def __init__(
        self,
        service: HttpService,
        workers: int,
        processes: int,
        info: ServerInfo,
        preload: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """Take so many workers in `processes` processes; with 0 they are threads of this one."""
        units, info = units_for(workers, processes, preload, info)
        super().__init__(service, units, info, **options)
        self.url = service.url


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
        """Serve until `stop`; `on_ready` is called once the starter is done."""
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
