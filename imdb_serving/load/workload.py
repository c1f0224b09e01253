"""Reviews as load: lines of a data file become requests, replies become results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter_ns
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from imdb_serving.errors import UNREADABLE, RemoteFailure, UnexpectedAnswer
from imdb_serving.messages import Reply, Request
from imdb_serving.protocol.requests import make_request
from imdb_serving.text.formats import Line, LineFormat, parse
from imdb_serving.text.reviews import Vocabulary

T = TypeVar("T")

LABELLED = ("prediction", "acc", "cost")
"""What the published clients fetch."""


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one sample: the probability of each class, and the label it was sent with, -1 without one."""

    shares: Sequence[float]
    label: int

    @property
    def probability(self) -> float:
        """The probability of the positive class, the second of two; of more or fewer that of the likeliest."""
        return self.shares[1] if len(self.shares) == 2 else max(self.shares)

    @property
    def right(self) -> bool:
        """True when the likelier class is the label; of equal ones the first counts."""
        return self.shares.index(max(self.shares)) == self.label


@dataclass(frozen=True, slots=True)
class ReviewWorkload:
    """A share of the lines; request `position` holds `batch` of them, the last one maybe fewer.

    Parsing and tokenising happen in `prepare`, where the published benchmark has them (prepro). Lines of text go as
    text without a `vocabulary`.
    """

    lines: Sequence[Line]
    kind: LineFormat
    vocabulary: Vocabulary | None
    fetch: tuple[str, ...] = LABELLED
    batch: int = 1

    @classmethod
    def plain(cls, lines: Sequence[Line], batch: int = 1, fetch: tuple[str, ...] = LABELLED) -> ReviewWorkload:
        """Return lines as they are, as requests; without labels only predictions are asked for."""
        kind = lines[0].kind if lines else "ids"
        return cls(lines, kind, None, fetch if not lines or lines[0].classes else fetch[:1], batch)

    def __len__(self) -> int:
        return -(-len(self.lines) // self.batch)

    def samples(self, position: int) -> Sequence[Line]:
        """Return the lines of one request."""
        return self.lines[position * self.batch : (position + 1) * self.batch]

    def prepare(self, position: int) -> Request:
        """Parse the lines of one request; raise `DataError` for a malformed one."""
        feeds: list[dict[str, Any]] = []
        for line in self.samples(position):
            example = parse(line, self.kind)
            words = example.words
            if words is None and self.vocabulary is not None:
                words = self.vocabulary.encode(example.text or "")
            feeds.append({"words": example.text if words is None else words})
            if line.classes:
                feeds[-1]["label"] = example.label
        return make_request(feeds, self.fetch)

    def finish(self, position: int, reply: Reply) -> list[Result]:
        lines = self.samples(position)
        prediction = reply.outputs.get("prediction")
        if prediction is None or prediction.ndim != 2 or len(prediction) != len(lines):
            raise RemoteFailure(f"expected a prediction of shape [{len(lines)}, classes]")
        labels = [line.label for line in lines]
        return [Result(shares, label) for shares, label in zip(prediction.tolist(), labels, strict=True)]


@dataclass(frozen=True, slots=True)
class PreparedReviews(ReviewWorkload):
    """The same, made before: `prepare_ns` is what making one request took."""

    requests: Sequence[Request] = ()
    prepare_ns: int = 0

    @classmethod
    def of(cls, reviews: ReviewWorkload) -> PreparedReviews:
        """Make all requests of a share."""
        begun = perf_counter_ns()
        requests = [reviews.prepare(position) for position in range(len(reviews))]
        each = (perf_counter_ns() - begun) // max(len(requests), 1)
        return cls(reviews.lines, reviews.kind, reviews.vocabulary, reviews.fetch, reviews.batch, requests, each)

    def prepare(self, position: int) -> Request:
        return self.requests[position]


@dataclass(frozen=True, slots=True)
class PreparedWorkload:
    """Requests that were made before: a body each, for so many samples. `prepare_ns` is what making one took."""

    bodies: Sequence[Any]
    counts: Sequence[int]
    prepare_ns: int = 0

    def __len__(self) -> int:
        return len(self.bodies)

    def prepare(self, position: int) -> Any:
        """Return a body, which is all that the client of a server of someone else needs of a request."""
        return self.bodies[position]

    def finish(self, position: int, reply: Reply) -> list[Any]:
        """Return the answer's value for each sample."""
        return self.split(position, next(iter(reply.outputs.values())))

    def split(self, position: int, value: Any) -> list[Any]:
        """Return a value for each sample; of several it must be a list of as many."""
        count = self.counts[position]
        if count == 1:
            return [value]
        if not isinstance(value, list) or len(value) != count:
            raise UnexpectedAnswer(
                f"answer: expected a list of {count} values, one a sample, got {value!r:.80}", UNREADABLE
            )
        return value


def split_lines(lines: Sequence[T], clients: int, batch: int) -> list[Sequence[T]]:
    """Split the lines into `clients` contiguous shares of whole batches, none dropped, none doubled, sizes even."""
    batches = -(-len(lines) // batch)
    edges = [round(number * batches / clients) * batch for number in range(clients + 1)]
    return [lines[start:end] for start, end in pairwise(edges)]


@dataclass(frozen=True, slots=True)
class UniformWorkload:
    """Requests that are all alike: `batch` reviews of `words` word ids."""

    count: int
    words: int
    batch: int

    def __len__(self) -> int:
        return self.count

    def prepare(self, _position: int) -> Request:
        review = np.arange(self.words, dtype=np.int64)
        return make_request([{"words": review}] * self.batch, ("prediction",))

    def finish(self, _position: int, reply: Reply) -> NDArray[Any]:
        if len(reply.outputs["prediction"]) != self.batch:
            raise RemoteFailure(f"expected a prediction of {self.batch} samples")
        return reply.outputs["prediction"]
