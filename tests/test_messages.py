"""Tensors and requests are checked before anybody relies on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.errors import BadRequest
from imdb_serving.messages import Request, Tensor


def words(*lengths: int) -> Tensor:
    return Tensor(np.arange(sum(lengths)), lengths)


@given(st.lists(st.integers(0, 5), max_size=6))
def test_a_ragged_tensor_splits_into_its_samples(lengths: list[int]) -> None:
    tensor = words(*lengths)
    parts = tensor.split()
    assert tensor.samples == len(lengths)
    assert [len(part) for part in parts] == lengths
    assert [value for part in parts for value in part] == list(range(sum(lengths)))


def test_a_dense_tensor_splits_along_its_first_axis() -> None:
    tensor = Tensor(np.array([[1, 2], [3, 4], [5, 6]]))
    assert tensor.samples == 3
    assert [part.tolist() for part in tensor.split()] == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("values", "lengths", "message"),
    [
        (np.array(1), None, "at least one axis"),
        (np.zeros((2, 2)), (2, 2), r"one-dimensional, got shape \[2, 2\]"),
        (np.zeros(3), (1, 1), "sum to 3, got a sum of 2"),
        (np.zeros(3), (5, -2), "at least 0"),
        (np.zeros(1), (), "sum to 1"),
    ],
)
def test_a_tensor_whose_lengths_do_not_fit_is_refused(
    values: np.ndarray, lengths: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        Tensor(values, lengths).check()


@pytest.mark.parametrize(
    ("fetch", "samples", "message"),
    [
        (("prediction",), 0, "at least one sample"),
        ((), 2, "at least one fetch name"),
        (("prediction",), 3, "feed 'words' holds 2 samples, the request says 3"),
    ],
)
def test_a_request_that_does_not_fit_its_tensors_is_refused(fetch: tuple[str, ...], samples: int, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        Request({"words": words(2, 1)}, fetch, samples).check()


def test_a_request_that_fits_is_made() -> None:
    for request in (Request({"words": words(2, 1)}, ("prediction",), 2), Request({"words": words(3)}, ("acc",), 1)):
        request.check()


def test_one_sample_is_not_taken_for_two() -> None:
    with pytest.raises(BadRequest, match="holds 2 samples, the request says 1"):
        Request({"words": words(2, 1)}, ("prediction",), 1).check()
