"""From an endpoint to the client that speaks its protocol."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from time import monotonic, sleep

from imdb_serving.clients.base import Client
from imdb_serving.config import DEFAULT_TIMEOUT, MAX_ANSWER_BYTES
from imdb_serving.errors import BadRequest, RequestTimeout, ServerUnavailable
from imdb_serving.keys import NOBODY, Credentials

KEEP_ALIVE, CURL = "keep-alive", "curl"

LISTEN_SECONDS = 10.0
"""How long one is waited for that does not listen yet."""

PROBE_SECONDS = 1.0
PAUSE_SECONDS = 0.1


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
    from imdb_serving.clients.balanced import BalancedClient

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
