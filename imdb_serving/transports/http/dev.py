"""Werkzeug's development server, as the published benchmark has it: one process, one thread, HTTP/1.0."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from imdb_serving.transports.http.server import url
from imdb_serving.transports.streams.listening import listen
from imdb_serving.workers.starting import Starter

if TYPE_CHECKING:
    from flask import Flask

DEV_READ_SECONDS = 10.0
DEV_BACKLOG = 128
KEEP_SECONDS = 0.5


class _DevHandler(WSGIRequestHandler):
    """Werkzeug's handler, with a limit on how long one client may keep the only thread waiting."""

    timeout = DEV_READ_SECONDS


class DevServer:
    """Werkzeug's development server as published: one process, one thread, a new connection for every request."""

    def __init__(self, app: Flask, host: str, port: int) -> None:
        """Listen; raises `ServerStartError` when the address cannot be had."""
        # Werkzeug, left to listen by itself, prints why it cannot and exits.
        with listen(host, port, DEV_BACKLOG) as listener:
            self._server: BaseWSGIServer = make_server(
                host, port, app, threaded=False, processes=1, request_handler=_DevHandler, fd=listener.fileno()
            )
            self.url = url(host, listener.getsockname()[1])
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
