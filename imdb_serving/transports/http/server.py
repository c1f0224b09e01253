"""The web server that the Flask application runs behind: the crew's threads share one epoll, and answer what they read.

Requests are read whole before a thread works on one, so a slow client holds up nobody; the next free thread takes the
next request, whoever sent it; what waits carries the stamp of its arrival. Health and the page have a thread of their
own, so that these are answered while all N are busy.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, perf_counter_ns
from typing import Any

from imdb_serving.transports.http.front import HttpFront
from imdb_serving.transports.http.responses import Application
from imdb_serving.transports.streams.listening import listen
from imdb_serving.workers.crew import Crew
from imdb_serving.workers.keeper import Keeper
from imdb_serving.workers.starting import Starter

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
        listener = listen(host, port)
        self.url = url(host, listener.getsockname()[1])
        self.front = HttpFront(listener, app)
        self.crew = Crew(self.front, threads, self.front.work, trusted=replace_stuck is None, **limits)
        self._keeper = Keeper(self.crew, replace_stuck)

    def stop(self) -> None:
        """Ask `run` to answer what has arrived, then return."""
        self._stopping = True
        self._keeper.rouse()

    def run(self, starter: Starter | None = None, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`; then requests in work are answered, new ones refused, for at most `drain_timeout`.

        While a `starter` is at work requests are refused with what it says; `on_ready` is called behind it.
        """
        try:
            if starter is not None:
                self.crew.refusing = starter.refusal
            self.crew.start()
            if starter is not None and not starter.run(self._keeper.keep, lambda: self._stopping):
                return
            self.crew.refusing = None
            on_ready()
            self._serve()
            while self.front.receive():  # what had arrived before the stop is still answered
                pass
            self._app.config["DRAINING"] = perf_counter_ns()
            until = monotonic() + self._drain_timeout
            self._keeper.drain(self._drain_timeout)
            while not self.front.is_quiet() and monotonic() < until:
                self.front.receive()
                self._keeper.keep(0.01)
        finally:
            self.crew.stop()
            self.front.close()

    def _serve(self) -> None:
        while not self._stopping:
            self._keeper.keep(KEEP_SECONDS)


def url(host: str, port: Any) -> str:
    """Return a server's address as clients write it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
