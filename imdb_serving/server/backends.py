"""What answers predictions behind the Flask application: this server's own workers. `gateway.py` has another."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter_ns
from typing import Protocol

from imdb_serving.config import WorkerKind
from imdb_serving.errors import UNFORESEEN, RemoteFailure, ServingError
from imdb_serving.messages import Handler, Reply, Request, ServerInfo
from imdb_serving.protocol import wire
from imdb_serving.server.rpc_requests import make_answer, telling
from imdb_serving.server.worker import nothing_yet, step_timer
from imdb_serving.server.worker_pool import WorkerPool, server_info
from imdb_serving.timing import Stage, Timeline

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
        self.pool = WorkerPool(nothing_yet, count, kind, preload, wire.fingerprint)
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
        return server_info(self.info, self.pool)

    def answer(self, request: Request, deadline: float) -> Reply:
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
        if step_timer.wanted:
            step_timer.record(reply.stages[1:])
        return reply

    return telling(answer, handler)
