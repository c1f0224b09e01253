"""What every client offers, whatever carries its bytes: `predict`, `predict_batch`, and the seam `call`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar

from imdb_serving.messages import Array, Reply, Request, ServerInfo
from imdb_serving.serving.feeds import Feed, make_request

Self = TypeVar("Self", bound="Client")


class Client(ABC):
    """One conversation with a server. Make it, use it and close it in one thread."""

    timeout: float
    """Each request's deadline in seconds; may be changed between requests."""

    @abstractmethod
    def call(self, request: Request) -> Reply:
        """Send `request`, wait until the deadline, return the reply with its stages, or raise a typed error."""

    @abstractmethod
    def hello(self) -> ServerInfo:
        """Ask the server who it is; also a way to find out that it is there."""

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
        outputs = dict(self.call(make_request((feed,), fetch)).outputs)
        for name, values in outputs.items():
            outputs[name] = values[0]
        return outputs

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
