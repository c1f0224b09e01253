"""What travels between a client and a pipeline, whatever carries it.

A `Request` and a `Reply` hold numpy arrays and no bytes of any protocol; transports encode them, pipelines compute on
them. Both are frozen and checked when made, so code that receives one need not check its form again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from imdb_serving.errors import BadRequest
from imdb_serving.timing import Stage, Timeline

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Values of one feed variable for all samples of a request.

    `lengths` is None for a dense tensor, whose first axis is the sample. A ragged tensor (word ids, or UTF-8 text as
    uint8) is one-dimensional, all samples after one another; `lengths[i]` is how many values sample i has.
    `text` marks UTF-8 bytes.
    """

    values: Array
    lengths: tuple[int, ...] | None = None
    text: bool = False

    def __post_init__(self) -> None:
        """Check that the lengths describe the values."""
        if self.lengths is None:
            if self.values.ndim == 0:
                raise BadRequest("a dense tensor needs at least one axis, the samples")
            return
        if self.values.ndim != 1:
            raise BadRequest(f"a ragged tensor must be one-dimensional, got shape {list(self.values.shape)}")
        if min(self.lengths, default=0) < 0 or sum(self.lengths) != len(self.values):
            raise BadRequest(
                f"lengths must be at least 0 and sum to {len(self.values)}, got a sum of {sum(self.lengths)}"
            )

    @property
    def samples(self) -> int:
        """How many samples the tensor holds values for."""
        return len(self.values) if self.lengths is None else len(self.lengths)

    def split(self) -> list[Array]:
        """Return one view per sample."""
        if self.lengths is None:
            return list(self.values)
        ends = np.cumsum(self.lengths)
        return [self.values[end - length : end] for end, length in zip(ends, self.lengths, strict=True)]


@dataclass(frozen=True, slots=True)
class Request:
    """`samples` inputs to predict together, and the names of the outputs to send back."""

    feed: Mapping[str, Tensor]
    fetch: tuple[str, ...]
    samples: int

    def __post_init__(self) -> None:
        """Check that every tensor holds all samples."""
        if self.samples < 1:
            raise BadRequest("a request needs at least one sample")
        if not self.fetch:
            raise BadRequest("a request needs at least one fetch name")
        for name, tensor in self.feed.items():
            if tensor.samples != self.samples:
                raise BadRequest(f"feed {name!r} holds {tensor.samples} samples, the request says {self.samples}")


@dataclass(frozen=True, slots=True)
class Reply:
    """The outputs of a request, each with the sample as first axis, and where the time went."""

    outputs: Mapping[str, Array]
    stages: list[Stage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself when asked (`hello`)."""

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


Handler = Callable[[Request, Timeline], Reply]
"""The server side of a request: a pipeline, as a transport sees it."""
