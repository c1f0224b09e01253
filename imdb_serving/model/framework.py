"""Paddle, imported without its messages for people who compile extensions; and padding of word ids for its nets."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("GLOG_minloglevel", "2")
_root = logging.getLogger()
_level, _handlers = _root.level, list(_root.handlers)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import paddle
    from paddle import inference, nn
    from paddle.nn import functional

# Importing Paddle sets up logging for the whole process; that is the user's to decide.
_root.setLevel(_level)
_root.handlers[:] = _handlers
# Paddle would answer SIGTERM with a page of C++ frames; ending cleanly is this package's own business.
paddle.disable_signal_handler()

__all__ = ["functional", "inference", "nn", "paddle"]


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
