"""Werkzeug's development server, as the published benchmark has it: one process, one thread, HTTP/1.0."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from imdb_serving.transports.http.server import url
from imdb_serving.transports.streams.listening import listen

if TYPE_CHECKING:
    from flask import Flask

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
        with listen(host, port, DEV_BACKLOG) as listener:
            self._server: BaseWSGIServer = make_server(
                host, port, app, threaded=False, processes=1, request_handler=_DevHandler, fd=listener.fileno()
            )
            self.url = url(host, listener.getsockname()[1])

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
