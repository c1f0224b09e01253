"""What every client offers, whatever carries its bytes: `predict`, `predict_batch`, and the seam `call`."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar

from imdb_serving.errors import BadRequest
from imdb_serving.messages import Array, Reply, Request, ServerInfo
from imdb_serving.protocol.requests import Feed, make_request

Self = TypeVar("Self", bound="Client")


IN_USE = "this client is in use: another thread waits for its answer; make a client for each thread"


class Client(ABC):
    """One conversation with a server, for one thread at a time."""

    timeout: float
    """Each request's deadline in seconds; may be changed between requests."""

    @abstractmethod
    def call(self, request: Request) -> Reply:
        """Send `request`, wait until the deadline, return the reply with its stages, or raise a typed error."""

    @abstractmethod
    def hello(self) -> ServerInfo:
        """Ask the server for its `ServerInfo`; also a check that it answers."""

    def rest(self) -> None:  # noqa: B027 - most clients have nothing to do
        """Do what is due when no request follows for a while."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the client holds; it cannot be used afterwards."""

    def is_lost(self) -> bool:
        """Tell, at little cost, whether the connection is known to be gone; the next request makes another one."""
        return False

    def predict(self, feed: Feed, fetch: Sequence[str] = ("prediction",)) -> dict[str, Array]:
        """Predict one sample.

        `feed` has `words`, a list of word ids or a text, and for `acc` and `cost` a `label`, 0 or 1. Returns one
        array a fetch name: `prediction` [2] (negative, positive), `acc` [1], `cost` [1].
        """
        outputs = self.call(make_request((feed,), fetch)).outputs
        if len(outputs) == 1:  # as most requests have it
            ((name, values),) = outputs.items()
            return {name: values[0]}
        return {name: values[0] for name, values in outputs.items()}

    def predict_batch(self, feeds: Sequence[Feed], fetch: Sequence[str] = ("prediction",)) -> list[dict[str, Array]]:
        """Predict several samples in one request; returns what `predict` does, a sample each, in order."""
        reply = self.call(make_request(feeds, fetch))
        return [{name: values[sample] for name, values in reply.outputs.items()} for sample in range(len(feeds))]

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ConnectedClient(Client):
    """A client with a connection, which one thread of one process may use at a time.

    A call from a second thread raises `BadRequest` while another one goes on. In a forked process the client begins
    anew, with a connection of its own; that of the parent process is left as it is.
    """

    def __init__(self) -> None:
        self._use = threading.Lock()
        self._process = os.getpid()
        self._closing = False

    def call(self, request: Request) -> Reply:
        if self._process != os.getpid() or not self._use.acquire(blocking=False):  # `_acquire`, without its cost
            self._acquire()
        try:
            return self._call(request)
        finally:
            self._use.release()
            if self._closing:
                self._close_if_unused()

    def hello(self) -> ServerInfo:
        """Ask the server who it is: engine, worker count, feed and fetch names."""
        self._acquire()
        try:
            return self._hello()
        finally:
            self._release()

    def is_lost(self) -> bool:
        self._acquire()
        try:
            return self._is_lost()
        finally:
            self._release()

    def close(self) -> None:
        """Close the connection; while another thread uses it, that is done when its call ends."""
        if self._process != os.getpid():
            self._start_in_child()
        self._closing = True
        self._close_if_unused()

    def _acquire(self) -> None:
        if self._process != os.getpid():
            self._start_in_child()
        if not self._use.acquire(blocking=False):
            raise BadRequest(IN_USE)

    def _release(self) -> None:
        self._use.release()
        if self._closing:
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._use.acquire(blocking=False):
            try:
                self._closing = False
                self._close()
            finally:
                self._use.release()

    def _start_in_child(self) -> None:
        self._use = threading.Lock()  # a thread of the parent process may have held it
        self._after_fork()
        self._process, self._closing = os.getpid(), False

    @abstractmethod
    def _call(self, request: Request) -> Reply: ...

    @abstractmethod
    def _hello(self) -> ServerInfo: ...

    @abstractmethod
    def _close(self) -> None: ...

    def _is_lost(self) -> bool:
        return False

    @abstractmethod
    def _after_fork(self) -> None:
        """Drop the connection of the parent process, without a message to its server."""
