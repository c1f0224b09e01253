"""From ragged word ids to the padded arrays a net is fed. Engines that take whole reviews do without.

A net sees `words` [N, L] int64 and, where it pools over time, `mask` [N, 1, L] float32: 0 at a word, -1e9 at padding.
The padding word's embedding is zero, so a padded review computes what the review alone does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MASKED = -1e9


class Feed(NamedTuple):
    """Padded reviews: `words` [N, L], `mask` [N, 1, L]."""

    words: NDArray[np.int64]
    mask: NDArray[np.float32]


def pad(reviews: Sequence[NDArray[np.int64]], pad_id: int, multiple: int = 1) -> Feed:
    """Pad reviews to the longest of them, rounded up to a multiple. An empty review is one padding word, not masked."""
    lengths = [max(len(review), 1) for review in reviews]
    longest = -(-max(lengths) // multiple) * multiple
    words = np.full((len(reviews), longest), pad_id, dtype=np.int64)
    mask = np.full((len(reviews), 1, longest), MASKED, dtype=np.float32)
    for row, (review, length) in enumerate(zip(reviews, lengths, strict=True)):
        words[row, : len(review)] = review
        mask[row, 0, :length] = 0.0
    return Feed(words, mask)
