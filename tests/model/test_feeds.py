"""From ragged word ids to the padded arrays a net is fed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.model.nets import MASKED, pad

PAD = 99

REVIEWS = st.lists(st.lists(st.integers(0, PAD - 1), max_size=20), min_size=1, max_size=20)


def ids(*reviews: list[int]) -> list[np.ndarray]:
    return [np.array(review, dtype=np.int64) for review in reviews]


def test_a_batch_is_padded_to_its_longest_review_and_masked() -> None:
    feed = pad(ids([1, 2, 3], [4]), PAD)
    assert feed.words.tolist() == [[1, 2, 3], [4, PAD, PAD]]
    assert feed.mask.tolist() == [[[0, 0, 0]], [[0, MASKED, MASKED]]]
    assert (feed.words.dtype, feed.mask.dtype) == (np.int64, np.float32)


def test_an_empty_review_is_one_padding_word_that_is_not_masked() -> None:
    feed = pad(ids([], [7, 8]), PAD)
    assert feed.words.tolist() == [[PAD, PAD], [7, 8]]
    assert feed.mask.tolist() == [[[0, MASKED]], [[0, 0]]]


def test_an_empty_review_alone_has_a_length() -> None:
    feed = pad(ids([]), PAD)
    assert feed.words.tolist() == [[PAD]]
    assert feed.mask.tolist() == [[[0]]]


@pytest.mark.parametrize(("length", "padded"), [(0, 4), (1, 4), (4, 4), (5, 8), (8, 8)])
def test_lengths_are_padded_to_a_multiple(length: int, padded: int) -> None:
    feed = pad(ids([1] * length), PAD, 4)
    assert feed.words.shape == (1, padded)
    assert feed.mask.shape == (1, 1, padded)


@given(REVIEWS, st.integers(1, 8))
def test_a_feed_holds_every_review_and_masks_the_rest(reviews: list[list[int]], multiple: int) -> None:
    words, mask = pad(ids(*reviews), PAD, multiple)
    rows, length = words.shape
    assert mask.shape == (rows, 1, length)
    assert length % multiple == 0
    assert [row[row != PAD].tolist() for row in words] == reviews
    assert (mask[:, 0] == 0).sum(axis=1).tolist() == [max(len(review), 1) for review in reviews]
    assert set(np.unique(mask)) <= {np.float32(MASKED), np.float32(0)}
