"""What travels between a client and a pipeline, whatever carries it.

A `Request` and a `Reply` hold numpy arrays and no bytes of any protocol; transports encode them, pipelines compute on
them. Both are frozen. Whoever reads a request from bytes checks it (`Request.check`), so that code behind need not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from imdb_serving.errors import BadRequest
from imdb_serving.timing import Stage, Timeline

Array = NDArray[np.generic]

MAX_FEEDS = 64
"""Feeds of a request, and names to fetch."""


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """Values of one feed variable for all samples of a request.

    `lengths` is None for a dense tensor, whose first axis is the sample. A ragged tensor (word ids, or UTF-8 text as
    uint8) is one-dimensional, all samples after one another; `lengths[i]` is how many values sample i has.
    `text` marks UTF-8 bytes.
    """

    values: Array
    lengths: tuple[int, ...] | None = None
    text: bool = False

    def check(self) -> None:
        """Check that the lengths describe the values; raise `BadRequest` when they do not."""
        lengths, values = self.lengths, self.values
        if lengths is None:
            if self.text:
                raise BadRequest("a text needs lengths, the bytes of each sample")
            if values.ndim == 0:
                raise BadRequest("a dense tensor needs at least one axis, the samples")
            return
        if values.ndim != 1:
            raise BadRequest(f"a ragged tensor must be one-dimensional, got shape {list(values.shape)}")
        if sum(lengths) != len(values) or min(lengths, default=0) < 0:
            raise BadRequest(f"lengths must be at least 0 and sum to {len(values)}, got a sum of {sum(lengths)}")

    @property
    def samples(self) -> int:
        """How many samples the tensor holds values for."""
        return len(self.values) if self.lengths is None else len(self.lengths)

    def split(self) -> list[Array]:
        """Return one view per sample."""
        if self.lengths is None:
            return list(self.values)
        if len(self.lengths) == 1:
            return [self.values]
        ends = np.cumsum(self.lengths)
        return [self.values[end - length : end] for end, length in zip(ends, self.lengths, strict=True)]


class Request(msgspec.Struct, frozen=True, gc=False):
    """`samples` inputs to predict together, and the names of the outputs to send back."""

    feed: Mapping[str, Tensor]
    fetch: tuple[str, ...]
    samples: int

    def check(self) -> None:
        """Check that every tensor holds all samples; raise `BadRequest` when one does not."""
        if self.samples < 1:
            raise BadRequest("a request needs at least one sample")
        if not self.fetch:
            raise BadRequest("a request needs at least one fetch name")
        for name, tensor in self.feed.items():
            if self.samples == 1 and tensor.values.shape == tensor.lengths:
                continue  # one ragged sample, what most requests are
            try:
                tensor.check()
            except BadRequest as error:
                raise BadRequest(f"feed {name!r}: {error}") from error
            if tensor.samples != self.samples:
                raise BadRequest(f"feed {name!r} holds {tensor.samples} samples, the request says {self.samples}")


class Record(Protocol):
    """Stamps of a request, from which its stages are made when somebody asks for them: later, and seldom."""

    def stages(self) -> list[Stage]:
        """Return the stages; raise `RemoteFailure` when the server's part cannot be read."""

    def clock_bound_ns(self) -> int:
        """Return how far the way there and the way back can be from the truth, once the stages have been made."""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """The outputs of a request, each with the sample as first axis, and where the time went.

    That is a list of stages, or a record from which they can be made.
    """

    outputs: Mapping[str, Array]
    record: list[Stage] | Record = []

    @property
    def stages(self) -> list[Stage]:
        """The stages, in order."""
        return self.record if isinstance(self.record, list) else self.record.stages()

    @property
    def clock_bound_ns(self) -> int:
        """How far `send` and `reply` can be from the truth, since the clocks of two hosts differ; 0 on one host.

        Their sum is exact. It is known once the stages have been asked for.
        """
        return 0 if isinstance(self.record, list) else self.record.clock_bound_ns()


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself when asked (`hello`).

    `ops` are the names of its stages, in order; `workers_ready` of its `server_threads` workers are there now,
    `given_up` names those that will not come back, with the reason, and `metrics` is where Prometheus finds them.
    `warnings` say what is wrong at the moment. A request has at most `max_feeds` feeds. The workers are in
    `server_processes` processes. `labels` are the names of the model's classes, in the order of their probabilities.
    `model` is its name, which `reads` ids or text by the name `input`.
    """

    protocol: str
    version: str
    engine: str
    net: str
    server_threads: int
    worker_kind: str
    feed: tuple[str, ...]
    fetch: tuple[str, ...]
    max_message_bytes: int
    pid: int
    ops: tuple[str, ...] = ()
    workers_ready: int = 0
    given_up: tuple[str, ...] = ()
    metrics: str = ""
    warnings: tuple[str, ...] = ()
    max_feeds: int = MAX_FEEDS
    server_processes: int = 1
    labels: tuple[str, ...] = ()
    model: str = ""
    reads: str = "ids"
    input: str = "words"


Handler = Callable[[Request, Timeline], Reply]
"""The server side of a request: a pipeline, as a transport sees it."""
