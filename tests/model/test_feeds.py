"""From ragged word ids to the padded arrays a net is fed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imdb_serving.model.feeds import MASKED, FeedLayout, Words

PAD = 99

REVIEWS = st.lists(st.lists(st.integers(0, PAD - 1), max_size=20), min_size=1, max_size=20)
LAYOUTS = st.builds(
    FeedLayout,
    pad_id=st.just(PAD),
    length_multiple=st.integers(1, 8),
    min_rows=st.integers(1, 3),
    max_rows=st.sampled_from([0, 3, 4, 8]),
)


def ids(*reviews: list[int]) -> list[Words]:
    return [np.array(review, dtype=np.int64) for review in reviews]


def test_a_batch_is_padded_to_its_longest_review_and_masked() -> None:
    feed = FeedLayout(pad_id=PAD).pad(ids([1, 2, 3], [4]))
    assert feed.words.tolist() == [[1, 2, 3], [4, PAD, PAD]]
    assert feed.mask.tolist() == [[[0, 0, 0]], [[0, MASKED, MASKED]]]
    assert feed.rows == 2
    assert (feed.words.dtype, feed.mask.dtype) == (np.int64, np.float32)


def test_an_empty_review_is_one_padding_word_that_is_not_masked() -> None:
    feed = FeedLayout(pad_id=PAD).pad(ids([], [7, 8]))
    assert feed.words.tolist() == [[PAD, PAD], [7, 8]]
    assert feed.mask.tolist() == [[[0, MASKED]], [[0, 0]]]


def test_an_empty_review_alone_has_a_length() -> None:
    feed = FeedLayout(pad_id=PAD).pad(ids([]))
    assert feed.words.tolist() == [[PAD]]
    assert feed.mask.tolist() == [[[0]]]


@pytest.mark.parametrize(("length", "padded"), [(0, 4), (1, 4), (4, 4), (5, 8), (8, 8)])
def test_lengths_are_padded_to_a_multiple(length: int, padded: int) -> None:
    feed = FeedLayout(pad_id=PAD, length_multiple=4).pad(ids([1] * length))
    assert feed.words.shape == (1, padded)
    assert feed.mask.shape == (1, 1, padded)


def test_rows_are_filled_up_with_masked_padding() -> None:
    feed = FeedLayout(pad_id=PAD, min_rows=3).pad(ids([1, 2]))
    assert feed.words.tolist() == [[1, 2], [PAD, PAD], [PAD, PAD]]
    assert (feed.mask[1:] == np.float32(MASKED)).all()
    assert feed.rows == 1


@pytest.mark.parametrize(
    ("max_rows", "reviews", "rows"), [(0, 9, [9]), (4, 9, [4, 4, 1]), (4, 8, [4, 4]), (4, 3, [3]), (1, 2, [1, 1])]
)
def test_a_request_becomes_calls_of_at_most_max_rows(max_rows: int, reviews: int, rows: list[int]) -> None:
    layout = FeedLayout(pad_id=PAD, max_rows=max_rows)
    assert [feed.rows for feed in layout.calls(ids(*[[1]] * reviews))] == rows


def test_each_call_is_padded_to_its_own_longest_review() -> None:
    layout = FeedLayout(pad_id=PAD, max_rows=1)
    assert [feed.words.shape for feed in layout.calls(ids([1], [2, 3, 4]))] == [(1, 1), (1, 3)]


@settings(deadline=None)
@given(REVIEWS, LAYOUTS)
def test_the_calls_hold_every_review_once_and_in_order(reviews: list[list[int]], layout: FeedLayout) -> None:
    seen = []
    for feed in layout.calls(ids(*reviews)):
        rows, length = feed.words.shape
        assert feed.mask.shape == (rows, 1, length)
        assert length % layout.length_multiple == 0
        assert rows >= max(feed.rows, layout.min_rows)
        assert feed.rows <= (layout.max_rows or len(reviews))
        seen += [row[row != PAD].tolist() for row in feed.words[: feed.rows]]
        open_steps = (feed.mask[: feed.rows, 0] == 0).sum(axis=1)
        assert open_steps.tolist() == [max(len(review), 1) for review in seen[-feed.rows :]]
    assert seen == reviews
