"""A client of several servers: it takes turns, leaves a server that is dead, and returns to it later.

A request that a server refuses because it is gone or overloaded goes to the next server, while its time lasts; that is
safe, because a prediction changes nothing. A server that has been silent for a while, or whose connection is gone, is
asked `hello` first with a short time-out, so that a request does not spend its time on it. A thread in the background
asks servers that were left, at growing intervals, until they answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TypeVar

from imdb_serving.clients.base import Client, ConnectedClient
from imdb_serving.errors import BadRequest, Overloaded, RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.messages import Reply, Request, ServerInfo

PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0
PROBE_SECONDS = 0.5
SILENT_SECONDS = 1.0

Connect = Callable[[str, float], Client]
"""Makes the client of an endpoint with a timeout."""

T = TypeVar("T")


class _Server:
    """One endpoint, its client, and what is known of it."""

    def __init__(self, endpoint: str, connect: Connect, seconds: float) -> None:
        self.endpoint = endpoint
        self.client = connect(endpoint, seconds)
        self.left = False
        self.heard = float("-inf")
        self.said: ServerUnavailable | None = None

    def answers(self, seconds: float) -> bool:
        """Return whether it answers; ask it `hello` when it has been silent for a while."""
        if monotonic() - self.heard > SILENT_SECONDS or self.client.is_lost():
            self.client.timeout = min(PROBE_SECONDS, seconds)
            try:
                self.client.hello()
            except ServingError as error:
                self.left = True
                self.said = error if isinstance(error, ServerUnavailable) else None
                return False
            self.heard = monotonic()
        self.left = False
        return True


class BalancedClient(ConnectedClient):
    """A client of several servers, for use in one thread. `timeout` is each request's deadline in seconds, in all."""

    def __init__(self, endpoints: Sequence[str], connect: Connect, timeout: float) -> None:
        """Take the endpoints, what makes a client, and the timeout; raise `BadRequest` for what is no endpoint."""
        super().__init__()
        if not endpoints:
            raise BadRequest("at least one endpoint is needed")
        self.timeout = timeout
        self._connect = connect
        self._servers = [_Server(endpoint, connect, timeout) for endpoint in endpoints]
        self._turn = 0
        self._watch: threading.Thread | None = None
        self._closed = threading.Event()

    def _call(self, request: Request) -> Reply:
        """Have one of the servers answer. Raises what the last one asked said."""
        return self._ask(lambda client: client.call(request))

    def _hello(self) -> ServerInfo:
        """Ask the server that is next."""
        return self._ask(lambda client: client.hello())

    def _after_fork(self) -> None:
        self._closed = threading.Event()  # the clients of the servers see to themselves

    def _close(self) -> None:
        self._closed.set()
        for server in self._servers:
            server.client.close()

    def _ask(self, do: Callable[[Client], T]) -> T:
        deadline = monotonic() + self.timeout
        refusal: ServingError | None = None
        for server in self._in_turn():
            left = deadline - monotonic()
            if left <= 0:
                break
            if not server.answers(left):
                self._watch_those_left()
                if server.said is not None and server.said.answered:
                    refusal = server.said  # it is there, and starting
                continue
            server.client.timeout = max(0.001, deadline - monotonic())
            try:
                answer = do(server.client)
            except ServerUnavailable as error:
                server.left, server.heard, refusal = True, float("-inf"), error
                self._watch_those_left()
            except Overloaded as error:
                refusal = error
            except RequestTimeout:
                server.heard = float("-inf")  # the next request asks first
                raise
            else:
                server.heard = monotonic()
                return answer
        raise refusal or ServerUnavailable(
            f"no server answers at {', '.join(server.endpoint for server in self._servers)}"
        )

    def _in_turn(self) -> list[_Server]:
        """Return the live servers, beginning with the next one, or all servers when none is known to be live."""
        self._turn += 1
        turn = self._turn % len(self._servers)
        ordered = [*self._servers[turn:], *self._servers[:turn]]
        return [server for server in ordered if not server.left] or ordered

    def _watch_those_left(self) -> None:
        if self._watch is None or not self._watch.is_alive():
            self._watch = threading.Thread(target=self._look_for_those_left, name="balance", daemon=True)
            self._watch.start()

    def _look_for_those_left(self) -> None:
        pauses = dict.fromkeys(self._servers, PAUSE_SECONDS)
        due = dict.fromkeys(self._servers, monotonic() + PAUSE_SECONDS)
        while (left := [server for server in self._servers if server.left]) and not self._closed.wait(PAUSE_SECONDS):
            for server in left:
                if monotonic() < due[server]:
                    continue
                try:
                    with self._connect(server.endpoint, PROBE_SECONDS) as client:
                        client.hello()
                except ServingError:
                    pauses[server] = min(2 * pauses[server], MAX_PAUSE_SECONDS)
                    due[server] = monotonic() + pauses[server]
                else:
                    server.left = False
