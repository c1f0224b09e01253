"""What answers a prediction behind the Flask application: this server's own workers, or an RPC server (the gateway)."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic, perf_counter_ns
from typing import Protocol

from imdb_serving.config import MAX_TIMEOUT
from imdb_serving.errors import UNFORESEEN, RemoteFailure, ServingError
from imdb_serving.messages import Handler, Reply, Request, ServerInfo
from imdb_serving.timing import Stage, Timeline
from imdb_serving.transports.introduction import introduce
from imdb_serving.transports.keys import NOBODY, Credentials
from imdb_serving.transports.rpc import wire
from imdb_serving.transports.rpc.answering import make_answer, telling
from imdb_serving.transports.rpc.zeromq_client import RpcClient
from imdb_serving.workers import pace
from imdb_serving.workers.pool import Pool
from imdb_serving.workers.seats import WorkerKind, nothing_yet

log = logging.getLogger(__name__)


Refusing = Callable[[], ServingError | None] | None
"""Returns what is answered instead while a server starts."""


def refuse_while_starting(refusing: Refusing) -> None:
    """Raise what is answered while a server starts."""
    if refusing is not None and (refusal := refusing()) is not None:
        raise refusal


class Backend(Protocol):
    """What answers predictions; called from several threads at once."""

    refusing: Refusing

    def describe(self) -> ServerInfo:
        """Return who answers; raise a `ServingError` when nobody does."""

    def answer(self, request: Request, deadline: float) -> Reply:
        """Return the reply, its stages beginning with `handover`, or raise a `ServingError`."""


class Workers:
    """A backend of workers in a pool of this server's own.

    A thread worker takes the request as it is, in the web server's thread; a process gets it in RPC's frames.
    """

    refusing: Refusing = None

    def __init__(
        self,
        make_handler: Callable[[], Handler] | None,
        count: int,
        kind: WorkerKind,
        info: ServerInfo,
        preload: Sequence[str] = (),
    ) -> None:
        """Make the pool; the server starts and stops it. What makes handlers may come later, by `set_handler`."""
        self.pool = Pool(nothing_yet, count, kind, preload, wire.fingerprint)
        if make_handler is not None:
            self.set_handler(make_handler)
        self._ask = self._ask_process if kind == "process" else self._ask_thread
        self.info = info

    def set_handler(self, make_handler: Callable[[], Handler]) -> None:
        """Take what makes a worker's handler; before the pool is started."""
        make = make_answer if self.pool.kind == "process" else make_local_answer
        self.pool.make_answer = functools.partial(make, make_handler)

    def describe(self) -> ServerInfo:
        """Return who answers; raise `ServerUnavailable` while no worker is there. One that is missing stops nobody."""
        refuse_while_starting(self.refusing)
        return introduce(self.info, self.pool)

    def answer(self, request: Request, deadline: float) -> Reply:
        """Have a worker answer."""
        reply = self._ask(perf_counter_ns(), request, deadline)
        if isinstance(reply, ServingError):
            raise reply
        if not isinstance(reply, Reply):
            raise RemoteFailure("the worker answered a prediction with something else")
        handover, *ops = reply.stages
        return Reply(reply.outputs, [Stage("handover", handover.start_ns, handover.end_ns), *ops])

    def _ask_thread(self, begun_ns: int, request: Request, deadline: float) -> Reply | ServingError:
        deadline_ns = begun_ns + int((deadline - monotonic()) * 1e9)
        answer: Reply | ServingError = self.pool.ask(begun_ns, (request, deadline_ns), deadline)
        return answer

    def _ask_process(self, begun_ns: int, request: Request, deadline: float) -> Reply | ServerInfo | ServingError:
        left_ms = max(1.0, (deadline - monotonic()) * 1000)
        frames = self.pool.ask(begun_ns, wire.encode_request(request, 0, left_ms), deadline)
        opened = wire.open_frames(frames)
        answer = wire.decode_answer(opened.header, opened.tensors)[1]
        return Reply(answer.outputs, answer.stages()) if isinstance(answer, wire.Answered) else answer


LocalAnswer = Callable[[int, tuple[Request, int]], Reply | ServingError]


def make_local_answer(make_handler: Callable[[], Handler]) -> LocalAnswer:
    """Make a handler, and return what answers requests with it; what goes wrong is returned, for it may not raise.

    A request comes with its deadline (ns).
    """
    handler = make_handler()

    def answer(begun_ns: int, asked: tuple[Request, int]) -> Reply | ServingError:
        request, deadline_ns = asked
        timeline = Timeline([], deadline_ns)
        timeline.add("handover", begun_ns, perf_counter_ns())
        try:
            reply = handler(request, timeline)
        except ServingError as error:
            return error
        except BaseException:  # SystemExit as well: a request must not end a worker
            log.exception("a request failed")
            return RemoteFailure(UNFORESEEN)
        if pace.here.asked:
            pace.tell(reply.stages[1:])
        return reply

    return telling(answer, handler)


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
        """Ask the RPC server who it is."""
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
