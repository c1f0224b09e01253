"""Engines, and whether a review's answer depends on its neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from imdb_serving.errors import ConfigError
from imdb_serving.model import engines
from imdb_serving.model.bundle import Bundle, open_bundle
from imdb_serving.model.engines import ENGINES, Engine, EngineSpec, NullEngine, make_engine, warm_up
from imdb_serving.model.feeds import Feed, FeedLayout, Words
from imdb_serving.model.nets import NETS
from imdb_serving.text.reviews import Reviews

FEED = FeedLayout(pad_id=9, min_rows=4).pad([np.array([1, 2]), np.array([3]), np.array([], dtype=np.int64)])
REVIEWS = 60
BATCHES = (2, 3, 7, 32)


def test_the_null_engine_finds_both_classes_equally_likely() -> None:
    answer = make_engine(EngineSpec("null"), None).run(FEED)
    assert answer.tolist() == [[0.5, 0.5]] * 3
    assert answer.dtype == np.float32


def test_the_simulated_engine_sleeps_its_time_and_answers_like_null() -> None:
    engine = make_engine(EngineSpec("simulated", service_time_ms=20), None)
    start = time.perf_counter()
    answer = engine.run(FEED)
    assert time.perf_counter() - start >= 0.02
    assert np.array_equal(answer, NullEngine().run(FEED))


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What engines slept, in seconds, without the waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(engines.time, "sleep", seconds.append)
    return seconds


Sleep = Callable[..., list[float]]


@pytest.fixture
def sleeps(slept: list[float]) -> Sleep:
    """A function that returns the service times of some calls of a new simulated engine."""

    def run(calls: int, **options: object) -> list[float]:
        slept.clear()
        engine = make_engine(EngineSpec("simulated", **options), None)  # type: ignore[arg-type]
        for _ in range(calls):
            engine.run(FEED)
        return list(slept)

    return run


def test_fixed_service_times_are_all_the_same(sleeps: Sleep) -> None:
    assert sleeps(5, service_time_ms=3.0) == [0.003] * 5


def test_exponential_service_times_are_seeded(sleeps: Sleep) -> None:
    first = sleeps(20, distribution="exponential", seed=1)
    assert sleeps(20, distribution="exponential", seed=1) == first
    assert sleeps(20, distribution="exponential", seed=2) != first


def test_exponential_service_times_have_their_mean_and_spread(sleeps: Sleep) -> None:
    seconds = sleeps(4000, distribution="exponential", service_time_ms=5.0)
    assert np.mean(seconds) == pytest.approx(0.005, rel=0.1)
    assert np.std(seconds) == pytest.approx(0.005, rel=0.15)


@pytest.mark.parametrize("distribution", ["fixed", "exponential"])
def test_a_service_time_of_zero_is_fine(sleeps: Sleep, distribution: str) -> None:
    assert sleeps(3, service_time_ms=0.0, distribution=distribution) == [0.0] * 3


def test_an_unknown_engine_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown engine 'padle'; did you mean 'paddle'\? \(known: null, paddle, "):
        EngineSpec("padle")


@pytest.mark.parametrize("time_ms", [-1.0, float("nan"), float("inf")])
def test_an_impossible_service_time_is_refused(time_ms: float) -> None:
    with pytest.raises(ConfigError, match="service_time_ms"):
        EngineSpec("simulated", service_time_ms=time_ms)


def test_no_math_thread_is_refused() -> None:
    with pytest.raises(ConfigError, match="math_threads"):
        EngineSpec(math_threads=0)


def test_the_paddle_engine_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a model"):
        make_engine(EngineSpec("paddle"), None)


def test_every_engine_has_a_worker_kind() -> None:
    assert ENGINES == {"paddle": "process", "null": "thread", "simulated": "thread"}


class _Recorder(NullEngine):
    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, feed: Feed) -> engines.Probabilities:
        self.shapes.append(feed.words.shape)
        return super().run(feed)


def test_warming_up_runs_every_length_the_layout_tells_apart() -> None:
    engine = _Recorder()
    warm_up(engine, FeedLayout(pad_id=9, length_multiple=32, min_rows=2), longest=128)
    assert engine.shapes == [(2, 32), (2, 64), (2, 96), (2, 128)]


@pytest.fixture(scope="module", params=sorted(NETS))
def served(request: pytest.FixtureRequest, bundle_of: Callable[[str], Path]) -> tuple[Bundle, Engine]:
    """A trained bundle of each net, and the engine that serves it."""
    bundle = open_bundle(bundle_of(request.param))
    return bundle, make_engine(EngineSpec("paddle"), bundle)


@pytest.fixture(scope="module")
def reviews(served: tuple[Bundle, Engine], small_reviews: Reviews) -> list[Words]:
    """Real reviews, and those at the edge: empty, one and two words, unknown words, a long one."""
    vocabulary = served[0].vocabulary
    edge = ([], [0], [vocabulary.unknown], [0, 1], [vocabulary.unknown] * 2, list(range(700)))
    real = [vocabulary.encode(example.text or "") for example in small_reviews.held_out[: REVIEWS - len(edge)]]
    return [*(np.array(words, dtype=np.int64) for words in edge), *real]


@pytest.fixture(scope="module")
def alone(served: tuple[Bundle, Engine], reviews: list[Words]) -> engines.Probabilities:
    """Each review's probabilities when it is a request of its own."""
    return in_batches(served, reviews, range(len(reviews)), 1)


def in_batches(
    served: tuple[Bundle, Engine], reviews: Sequence[Words], order: Sequence[int], size: int
) -> engines.Probabilities:
    """Return every review's probabilities when requests hold `size` reviews each, in some order."""
    bundle, engine = served
    answers = np.empty((len(reviews), 2), dtype=np.float32)
    for start in range(0, len(order), size):
        rows = list(order[start : start + size])
        calls = bundle.card.layout.calls([reviews[row] for row in rows])
        answers[rows] = np.concatenate([engine.run(feed) for feed in calls])
    return answers


def shuffled(count: int, seed: int) -> list[int]:
    return [int(row) for row in np.random.default_rng(seed).permutation(count)]


def test_probabilities_are_finite_and_sum_to_one(alone: engines.Probabilities) -> None:
    assert alone.dtype == np.float32
    assert alone.shape == (REVIEWS, 2)
    assert alone.sum(axis=1) == pytest.approx(1.0, abs=1e-6)
    assert (alone >= 0).all()


def test_the_model_tells_reviews_apart(alone: engines.Probabilities) -> None:
    assert np.ptp(alone[:, 1]) > 0.01


@pytest.mark.parametrize("size", BATCHES)
def test_a_batch_answers_as_each_review_alone(
    served: tuple[Bundle, Engine], reviews: list[Words], alone: engines.Probabilities, size: int
) -> None:
    together = in_batches(served, reviews, shuffled(len(reviews), size), size)
    assert np.array_equal(together.argmax(axis=1), alone.argmax(axis=1))
    assert np.abs(together - alone).max() <= 1e-5


@pytest.mark.parametrize("size", BATCHES)
def test_one_padded_call_answers_as_each_review_alone(
    served: tuple[Bundle, Engine], reviews: list[Words], alone: engines.Probabilities, size: int
) -> None:
    bundle, engine = served
    together = engine.run(bundle.card.layout.pad(reviews[:size]))
    assert np.array_equal(together.argmax(axis=1), alone[:size].argmax(axis=1))
    assert np.abs(together - alone[:size]).max() <= 1e-5


def test_a_review_answers_the_same_bits_in_every_batch(
    served: tuple[Bundle, Engine], reviews: list[Words], alone: engines.Probabilities
) -> None:
    differ = {
        size: int((in_batches(served, reviews, shuffled(len(reviews), size), size) != alone).any(axis=1).sum())
        for size in (*BATCHES, 8)
    }
    assert differ == dict.fromkeys(differ, 0)


def test_a_rerun_answers_the_same_bits(
    served: tuple[Bundle, Engine], reviews: list[Words], alone: engines.Probabilities
) -> None:
    assert np.array_equal(in_batches(served, reviews, range(len(reviews)), 1), alone)


def test_the_cards_accuracy_is_what_the_served_engine_gives(
    served: tuple[Bundle, Engine], small_reviews: Reviews
) -> None:
    bundle, _ = served
    words = [bundle.vocabulary.encode(example.text or "") for example in small_reviews.held_out]
    labels = np.array([example.label for example in small_reviews.held_out])
    answers = in_batches(served, words, range(len(words)), 4)
    assert bundle.card.accuracy == (answers.argmax(axis=1) == labels).mean()
    assert bundle.card.held_out_reviews == len(labels)
