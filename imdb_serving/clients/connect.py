"""From endpoints to a client: the one that speaks an endpoint's protocol, or one that balances over several servers.

A balanced client takes turns. A request that a server refuses because it is gone or overloaded goes to the next server,
while its time lasts; that is safe, because a prediction changes nothing. A server that has been silent for a while, or
whose connection is gone, is asked `hello` first with a short time-out. A thread in the background asks servers that
were left, at growing intervals, until they answer.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import TypeVar

from imdb_serving.clients.base import Client, ConnectedClient
from imdb_serving.config import DEFAULT_TIMEOUT, MAX_ANSWER_BYTES
from imdb_serving.errors import BadRequest, Overloaded, RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.keys import NOBODY, Credentials
from imdb_serving.messages import Reply, Request, ServerInfo

PAUSE_SECONDS = 0.1
"""Between two probes of a server that does not answer. Where there are others to ask, the first of growing pauses."""

MAX_PAUSE_SECONDS = 5.0
OTHERS_PROBE_SECONDS = 0.5
"""The time-out of a probe where there are other servers to ask."""

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
            self.client.timeout = min(OTHERS_PROBE_SECONDS, seconds)
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
        """Call one of the servers; raise the error of the last one tried."""
        return self._ask(lambda client: client.call(request))

    def _hello(self) -> ServerInfo:
        """Ask the next server."""
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
                    with self._connect(server.endpoint, OTHERS_PROBE_SECONDS) as client:
                        client.hello()
                except ServingError:
                    pauses[server] = min(2 * pauses[server], MAX_PAUSE_SECONDS)
                    due[server] = monotonic() + pauses[server]
                else:
                    server.left = False


KEEP_ALIVE, CURL = "keep-alive", "curl"

LISTEN_SECONDS = 10.0
"""How long one is waited for that does not listen yet."""

PROBE_SECONDS = 1.0


def connect(
    endpoint: str | Sequence[str],
    timeout: float = DEFAULT_TIMEOUT,
    http_client: str = KEEP_ALIVE,
    *,
    max_answer_bytes: int = MAX_ANSWER_BYTES,
    credentials: Credentials = NOBODY,
    wait: float = 0.0,
) -> Client:
    """Return the client for an endpoint, or one that balances over several: a sequence, or one text with commas.

    `tcp://` and `ipc://` are RPC over ZeroMQ, `socket://` and `socket+unix://` RPC over a plain socket. `http://` is
    the HTTP service, for which `http_client` is `keep-alive` or `curl`. `credentials` are for servers that ask for
    them. With `wait` the server is waited for so many seconds, see `wait_for`. Raises `BadRequest` for anything else,
    and `ConfigError` for files that hold no key or token.
    """
    client = _connect(endpoint, timeout, http_client, max_answer_bytes, credentials)
    if wait:
        try:
            wait_for(client, wait)
        except BaseException:
            client.close()
            raise
    return client


def wait_for(client: Client, seconds: float, tell: Callable[[str], None] = lambda _: None) -> None:
    """Wait up to so many seconds until the server is ready; raise its last error when it is not.

    One that does not listen is waited for `LISTEN_SECONDS` at most. `tell` is called once, with what is waited for.
    """
    begun, timeout, is_told = monotonic(), client.timeout, False
    try:
        while True:
            client.timeout = min(timeout, PROBE_SECONDS, max(PAUSE_SECONDS, begun + seconds - monotonic()))
            try:
                client.hello()
            except (ServerUnavailable, RequestTimeout) as error:
                is_there = isinstance(error, RequestTimeout) or error.answered
                limit = seconds if is_there else min(seconds, LISTEN_SECONDS)
                if monotonic() + PAUSE_SECONDS > begun + limit:
                    raise
                if not is_told:
                    tell(str(error))
                    is_told = True
                sleep(PAUSE_SECONDS)
            else:
                return
    finally:
        client.timeout = timeout


def _connect(
    endpoint: str | Sequence[str], timeout: float, http_client: str, max_answer_bytes: int, credentials: Credentials
) -> Client:
    endpoints = endpoint.split(",") if isinstance(endpoint, str) else list(endpoint)
    make = functools.partial(
        _connect_one, http_client=http_client, max_answer_bytes=max_answer_bytes, credentials=credentials
    )
    if len(endpoints) == 1:
        return make(endpoints[0], timeout)
    # own

    return BalancedClient(endpoints, make, timeout)


def _connect_one(
    endpoint: str, timeout: float, *, http_client: str, max_answer_bytes: int, credentials: Credentials
) -> Client:
    scheme = endpoint.partition("://")[0]
    if scheme in {"tcp", "ipc"}:
        from imdb_serving.clients.zeromq import RpcClient

        return RpcClient(endpoint, timeout=timeout, max_answer_bytes=max_answer_bytes, credentials=credentials)
    if scheme in {"socket", "socket+unix"}:
        from imdb_serving.clients.sockets import SocketClient

        if credentials.client_key or credentials.server_key:
            raise BadRequest(f"keys are for ZeroMQ: use tcp:// or ipc://, not {endpoint}")
        return SocketClient(endpoint, timeout=timeout, max_answer_bytes=max_answer_bytes)
    if scheme == "http":
        from imdb_serving.clients.http import CurlClient, HttpClient

        kind = CurlClient if http_client == CURL else HttpClient
        return kind(endpoint, timeout=timeout, max_answer_bytes=max_answer_bytes, token_file=credentials.token_file)
    raise BadRequest(
        f"cannot use the endpoint {endpoint!r}: expected tcp://, ipc://, socket://, socket+unix:// or http://"
    )
