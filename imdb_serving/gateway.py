"""The gateway: an HTTP server's backend that asks an RPC server. The only place where a server is a client too."""

from __future__ import annotations

import threading
from dataclasses import replace
from time import monotonic, perf_counter_ns

from imdb_serving.clients.zeromq import RpcClient
from imdb_serving.config import MAX_TIMEOUT
from imdb_serving.keys import NOBODY, Credentials
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.server.app import Refusing, refuse_while_starting
from imdb_serving.timing import Stage


class Gateway:
    """A backend that asks an RPC server, as the published Flask service does; one client a thread."""

    refusing: Refusing = None

    def __init__(self, endpoint: str, credentials: Credentials = NOBODY) -> None:
        """Take the RPC server's endpoint, and what it asks to be shown."""
        self.endpoint, self._credentials = endpoint, credentials
        self.metrics = ""
        self._local = threading.local()

    def _client(self) -> RpcClient:
        if not hasattr(self._local, "client"):
            self._local.client = RpcClient(self.endpoint, credentials=self._credentials)
        client: RpcClient = self._local.client
        return client

    def describe(self) -> ServerInfo:
        refuse_while_starting(self.refusing)
        client = self._client()
        client.timeout = 1.0
        return replace(client.hello(), metrics=self.metrics)

    def answer(self, request: Request, deadline: float) -> Reply:
        """Pass the request on. `handover` is the way to the RPC server's first op; the way back is the reply's."""
        begun = perf_counter_ns()
        refuse_while_starting(self.refusing)
        client = self._client()
        # A tenth is kept back, so that the word of a server that is gone still reaches the client in its time.
        client.timeout = min(max(0.001, 0.9 * (deadline - monotonic())), MAX_TIMEOUT)
        reply = client.call(request)
        names = [stage.name for stage in reply.stages]
        ops = reply.stages[names.index("queue") + 1 : names.index("reply")]  # whatever they are called
        return Reply(reply.outputs, [Stage("handover", begun, ops[0].start_ns), *ops])
