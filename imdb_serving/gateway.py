"""The gateway: an HTTP server's backend that asks an RPC server. The only place where a server is a client too."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from imdb_serving.clients.zeromq import RpcClient
from imdb_serving.config import MAX_TIMEOUT
from imdb_serving.errors import ServingError
from imdb_serving.keys import NOBODY, Credentials
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.server.http.app import make_app, nobody
from imdb_serving.timing import Stage

if TYPE_CHECKING:
    from flask import Flask


class Gateway:
    """Asks an RPC server, as the published Flask service does; for one thread at a time."""

    refusing: Callable[[], ServingError | None] | None = None
    """Returns what is answered instead while a server starts."""

    def __init__(self, endpoint: str, credentials: Credentials = NOBODY) -> None:
        """Take the RPC server's endpoint, and what it asks to be shown."""
        self.endpoint, self._credentials = endpoint, credentials
        self._connected: RpcClient | None = None
        self._model = ""

    def _client(self) -> RpcClient:
        if self.refusing is not None and (refusal := self.refusing()) is not None:
            raise refusal
        if self._connected is None:
            self._connected = RpcClient(self.endpoint, credentials=self._credentials)
        return self._connected

    def describe(self) -> ServerInfo:
        """Return what the RPC server says of itself."""
        client = self._client()
        client.timeout = 1.0
        return client.hello()

    def model(self) -> str:
        """Return what its model is called, which is asked once."""
        if not self._model:
            self._model = self.describe().model
        return self._model

    def answer(self, request: Request, deadline_ns: int) -> Reply:
        """Pass the request on. `handover` is the way to the RPC server's first op; the way back is the reply's."""
        begun = perf_counter_ns()
        client = self._client()
        # A tenth is kept back, so that the word of a server that is gone still reaches the client in its time.
        client.timeout = min(max(0.001, 0.9 * (deadline_ns - begun) / 1e9), MAX_TIMEOUT)
        reply = client.call(request)
        names = [stage.name for stage in reply.stages]
        ops = reply.stages[names.index("queue") + 1 : names.index("reply")]  # whatever they are called
        return Reply(reply.outputs, [Stage("handover", begun, ops[0].start_ns), *ops])


def make_gateway_app(endpoint: str, credentials: Credentials, **options: Any) -> Flask:
    """Make the application of one of a gateway's workers; see `make_app`."""
    gateway = Gateway(endpoint, credentials)
    return make_app(nobody, gateway.answer, model=gateway.model, **options)
