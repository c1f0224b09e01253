"""From ragged word ids to the padded arrays a net is fed.

A net sees `words` [N, L] int64 and, where it pools over time, `mask` [N, 1, L] float32: 0 at a word, -1e9 at padding.
The padding word's embedding is zero, so a padded review computes exactly what the review alone does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.int64]
MASKED = -1e9


class Feed(NamedTuple):
    """One padded engine call: `words` [N, L], `mask` [N, 1, L]; only the first `rows` of N are real reviews."""

    words: Words
    mask: NDArray[np.float32]
    rows: int


class FeedLayout(msgspec.Struct, frozen=True, kw_only=True):
    """How reviews are laid out for a net; stored in its model card.

    A review's last bit must not depend on its neighbours in a batch. Matrix libraries choose their kernels by shape,
    so each net has a layout under which the same kernels serve every batch: lengths are padded to a multiple of
    `length_multiple`, a call has at least `min_rows` and at most `max_rows` rows (0: no limit).
    """

    pad_id: int
    length_multiple: int = 1
    min_rows: int = 1
    max_rows: int = 0

    def pad(self, reviews: Sequence[Words]) -> Feed:
        """Lay out one engine call. An empty review becomes one padding word that is not masked."""
        lengths = [max(len(review), 1) for review in reviews]
        longest = -(-max(lengths) // self.length_multiple) * self.length_multiple
        rows = max(len(reviews), self.min_rows)
        words = np.full((rows, longest), self.pad_id, dtype=np.int64)
        mask = np.full((rows, 1, longest), MASKED, dtype=np.float32)
        for row, (review, length) in enumerate(zip(reviews, lengths, strict=True)):
            words[row, : len(review)] = review
            mask[row, 0, :length] = 0.0
        return Feed(words, mask, len(reviews))

    def calls(self, reviews: Sequence[Words]) -> Iterator[Feed]:
        """Lay out a request as engine calls of at most `max_rows` reviews each, in order."""
        step = self.max_rows or len(reviews)
        for start in range(0, len(reviews), step):
            yield self.pad(reviews[start : start + step])
