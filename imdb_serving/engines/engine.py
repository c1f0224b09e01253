"""The interface of an engine as an op sees it. Knows no framework.

A call computes one review, so no answer depends on what else is in a batch: there is no padding, no mask, and no matrix
whose shape the neighbours decide. Batches would save little, and padding wastes more (docs/engines.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from imdb_serving.errors import BadRequest
from imdb_serving.model.signature import Ids, Probabilities, Sample

UINT64 = np.dtype(np.uint64)


class Engine(Protocol):
    """Computes reviews. Used by one thread at a time."""

    @property
    def lengths(self) -> Iterable[int]:
        """Lengths of review to run once before the first request, so that no request pays for a first time."""

    def run(self, reviews: Sequence[Sample]) -> Probabilities:
        """Return the class probabilities of the reviews, shape [reviews, classes] float32."""


def check_ids(review: Ids, rows: int) -> None:
    """Raise `BadRequest` for a word id beyond a table's rows; looking it up would end the process."""
    # Seen as unsigned, what is below 0 is above everything: one pass finds both.
    highest = review.item(review.view(UINT64).argmax())
    if not 0 <= highest < rows:
        raise no_such_word(highest, rows)


def no_such_word(word: int, rows: int) -> BadRequest:
    """Return the error for a word id beyond a table's rows."""
    return BadRequest(f"word id {word} is outside 0..{rows - 1}")


def one_by_one(answer: Callable[[Sample], Probabilities], reviews: Sequence[Sample]) -> Probabilities:
    """Return what `answer`, which gives one review's probabilities as [1, classes], says of every review."""
    if len(reviews) == 1:
        return answer(reviews[0])
    return np.concatenate([answer(review) for review in reviews])


def zeros(length: int) -> Sample:
    """Return a sample of so many equal ids."""
    return np.zeros(length, dtype=np.int64)


def warm_up(engine: Engine, sample: Callable[[int], Sample] = zeros) -> None:
    """Run one review of every length that the engine asks for; `sample` makes one, cut to what the model takes."""
    reviews = [sample(length) for length in engine.lengths]
    for review in {len(review): review for review in reviews}.values():
        engine.run([review])
