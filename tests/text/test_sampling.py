"""Choosing the reviews a measurement sends."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.text.reviews import Reviews, tokenise
from imdb_serving.text.sampling import STRATA, sample_by_length


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(1, 250), st.integers(0, 5))
def test_the_count_is_exact_and_nothing_repeats_more_than_it_must(lengths: list[int], count: int, seed: int) -> None:
    chosen = sample_by_length(lengths, count, seed)
    times = Counter(chosen)
    passes, rest = divmod(count, len(lengths))
    assert len(chosen) == count
    assert set(times) <= set(range(len(lengths)))
    assert all(times[index] in {passes, passes + 1} for index in range(len(lengths)))
    assert sum(times[index] == passes + 1 for index in range(len(lengths))) == rest


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(1, 100), st.integers())
def test_the_same_seed_gives_the_same_sample(lengths: list[int], count: int, seed: int) -> None:
    assert sample_by_length(lengths, count, seed) == sample_by_length(lengths, count, seed)


def test_another_seed_gives_another_sample() -> None:
    lengths = list(range(1000))
    first, second = (sample_by_length(lengths, 100, seed) for seed in (1, 2))
    assert set(first) != set(second)


def test_all_reviews_are_whole_passes_in_another_order_by_seed() -> None:
    lengths = list(range(50))
    first, second = (sample_by_length(lengths, 100, seed) for seed in (1, 2))
    assert Counter(first) == Counter(second) == Counter(dict.fromkeys(range(50), 2))
    assert first != second


@pytest.mark.parametrize("count", [10, 100, 550])
def test_each_tenth_of_the_lengths_gives_a_tenth_of_the_sample(count: int) -> None:
    lengths = [int(length) for length in np.random.default_rng(3).permutation(1000)]
    tenths = Counter(lengths[index] // 100 for index in sample_by_length(lengths, count, 2020))
    assert tenths == dict.fromkeys(range(STRATA), count // STRATA)


def test_the_sample_is_in_no_order_of_length() -> None:
    chosen = sample_by_length(list(range(1000)), 500, 2020)
    halves = np.mean(chosen[:250]), np.mean(chosen[250:])
    assert abs(halves[0] - halves[1]) < 150


def test_equal_lengths_are_chosen_from_everywhere() -> None:
    chosen = sample_by_length([7] * 1000, 200, 2020)
    assert Counter(index // 500 for index in chosen)[0] == pytest.approx(100, abs=30)


def test_real_reviews_keep_their_length_mix(packaged: Reviews) -> None:
    lengths = [len(tokenise(example.text or "")) for example in packaged.held_out[:2000]]
    chosen = [lengths[index] for index in sample_by_length(lengths, 300, 2020)]
    marks = range(10, 100, 10)
    assert np.percentile(chosen, marks) == pytest.approx(np.percentile(lengths, marks), rel=0.05)


@pytest.mark.parametrize(("lengths", "count"), [([], 1), ([1, 2], 0), ([1, 2], -1)])
def test_nothing_to_choose_is_refused(lengths: list[int], count: int) -> None:
    with pytest.raises(ValueError, match=f"cannot choose {count} of {len(lengths)}"):
        sample_by_length(lengths, count, 1)
