"""What a caller gives as a review: taken for what it is, or refused with a typed error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from imdb_serving.errors import BadRequest
from imdb_serving.messages import MAX_FEEDS
from imdb_serving.protocol.requests import make_request


@pytest.mark.parametrize(
    "words",
    [
        [8, 233], (8, 233), np.array([8, 233]), np.array([8, 233], np.int32), np.array([8, 233], np.uint8),
        [np.int64(8), 233],
    ],
)  # fmt: skip
@pytest.mark.parametrize("samples", [1, 2])
def test_one_review_is_taken(words: Any, samples: int) -> None:
    request = make_request([{"words": words}] * samples, ["prediction"])
    assert request.feed["words"].lengths == (2,) * samples
    assert request.feed["words"].values.tolist() == [8, 233] * samples


@pytest.mark.parametrize(
    "words",
    [
        np.array([[1, 2], [3, 4]]), np.array([[1, 2]]), [[1, 2], [3, 4]], [[1, 2], [3]], [np.array([1]), np.array([2])],
        [True, False], [True, 5], [np.True_, 5], np.array([True, False]), True, [None], None, b"text", [b"text"], [1.5],
        np.array([1.0]), ["a", "b"], ["a", 1], {"a": 1}, [2**70],
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("samples", [1, 2])
def test_what_is_not_one_review_is_refused(words: Any, samples: int) -> None:
    with pytest.raises(BadRequest, match="words"):
        make_request([{"words": words}] * samples, ["prediction"])


@pytest.mark.parametrize("label", [[0, 1], True, np.array([[0]]), "0", [], None], ids=repr)
def test_a_label_is_one_whole_number(label: Any) -> None:
    with pytest.raises(BadRequest, match="label"):
        make_request([{"words": [8], "label": label}], ["acc"])


@pytest.mark.parametrize("feeds", [{"words": [1]}, [[{"words": [1]}]], ["text"], [None], [[1, 2, 3]]], ids=repr)
def test_what_is_no_list_of_feeds_is_refused(feeds: Any) -> None:
    with pytest.raises(BadRequest, match="predict_batch"):
        make_request(feeds, ["prediction"])


def test_too_many_feeds_or_names_are_refused() -> None:
    with pytest.raises(BadRequest, match=f"at most {MAX_FEEDS}"):
        make_request([{str(number): [1] for number in range(MAX_FEEDS + 1)}], ["prediction"])
    with pytest.raises(BadRequest, match=f"at most {MAX_FEEDS}"):
        make_request([{"words": [1]}], ["prediction"] * (MAX_FEEDS + 1))
