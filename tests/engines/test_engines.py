"""Every engine gives the published answers, and no answer depends on its neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from imdb_serving.engines import stand_ins
from imdb_serving.engines.engine import Engine, warm_up
from imdb_serving.engines.registry import ENGINES, EngineSpec, make_engine, register
from imdb_serving.engines.stand_ins import NoneEngine
from imdb_serving.errors import BadRequest, ConfigError
from imdb_serving.model.bundle import Bundle, open_bundle
from imdb_serving.model.nets import NETS
from imdb_serving.model.signature import Ids, Probabilities
from imdb_serving.text.reviews import Reviews

MakeBundle = Callable[[str], Path]

THREE = [np.array([1, 2]), np.array([3]), np.array([4, 5, 6])]
REAL = [name for name, facts in ENGINES.items() if facts.needs_model]
REVIEWS = 60
BATCHES = (2, 3, 7, 32)


def test_the_null_engine_finds_both_classes_equally_likely() -> None:
    answer = make_engine(EngineSpec("none"), None).run(THREE)
    assert answer.tolist() == [[0.5, 0.5]] * 3
    assert answer.dtype == np.float32


def test_the_simulated_engine_sleeps_its_time_and_answers_like_null() -> None:
    engine = make_engine(EngineSpec("simulated", service_time_ms=20), None)
    start = time.perf_counter()
    answer = engine.run(THREE)
    assert time.perf_counter() - start >= 0.02
    assert np.array_equal(answer, NoneEngine().run(THREE))


class Clock:
    """A clock in place of the machine's, which only sleeping moves on."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def perf_counter(self) -> float:
        return sum(self.slept)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What engines slept, in seconds, without the waiting."""
    clock = Clock()
    monkeypatch.setattr(stand_ins, "time", clock)
    return clock.slept


Sleep = Callable[..., list[float]]


@pytest.fixture
def sleeps(slept: list[float]) -> Sleep:
    """A function that returns the service times of some calls of a new simulated engine."""

    def run(calls: int, **options: object) -> list[float]:
        slept.clear()
        engine = make_engine(EngineSpec("simulated", **options), None)  # type: ignore[arg-type]
        for _ in range(calls):
            engine.run(THREE)
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
    hint = r"unknown engine 'padle'; did you mean 'paddle'\? \(known: folded, none, onnxruntime, paddle, simulated\)"
    with pytest.raises(ConfigError, match=hint):
        EngineSpec("padle")


@pytest.mark.parametrize("time_ms", [-1.0, float("nan"), float("inf")])
def test_an_impossible_service_time_is_refused(time_ms: float) -> None:
    with pytest.raises(ConfigError, match="service_time_ms"):
        EngineSpec("simulated", service_time_ms=time_ms)


def test_no_math_thread_is_refused() -> None:
    with pytest.raises(ConfigError, match="math_threads"):
        EngineSpec(math_threads=0)


@pytest.mark.parametrize("name", REAL)
def test_a_real_engine_without_a_model_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"the {name} engine needs a model; give its folder, or use --engine sim"):
        make_engine(EngineSpec(name), None)


def test_an_unknown_variant_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="has no variant 'onednn32'; did you mean 'onednn-32'"):
        EngineSpec("paddle", variant="onednn32")


def test_a_net_that_an_engine_cannot_run_is_refused(bundle_of: MakeBundle) -> None:
    with pytest.raises(ConfigError, match=r"the folded engine runs cnn, and .* is a bow; .*\(paddle, onnxruntime\)"):
        make_engine(EngineSpec("folded"), open_bundle(bundle_of("bow")))


def test_the_published_engine_is_the_first_and_engines_that_hold_the_lock_work_in_processes() -> None:
    assert next(iter(ENGINES)) == "paddle"
    assert {facts.worker_kind for facts in ENGINES.values() if not facts.releases_lock} <= {"process"}
    assert ENGINES["none"].worker_kind == ENGINES["simulated"].worker_kind == "thread"


def test_an_engines_name_can_be_taken_only_once() -> None:
    with pytest.raises(ConfigError, match="an engine 'none' already"):
        register(ENGINES["none"])


class _Recorder(NoneEngine):
    lengths = (1, 8, 64)

    def __init__(self) -> None:
        self.seen: list[int] = []

    def run(self, reviews: Sequence[Ids]) -> Probabilities:
        self.seen += [len(review) for review in reviews]
        return super().run(reviews)


def test_warming_up_runs_every_length_the_engine_asks_for() -> None:
    engine = _Recorder()
    warm_up(engine)
    assert engine.seen == [1, 8, 64]


WAYS = [
    (net, EngineSpec(name, variant=variant))
    for net in sorted(NETS)
    for name in REAL
    for variant in (ENGINES[name].variants or ("",))
    if net in (ENGINES[name].nets or NETS)
]
"""Every net with every real engine that runs it, in every variant."""


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]}-{way[1].name}-{way[1].variant}".strip("-"))
def way(request: pytest.FixtureRequest) -> tuple[str, EngineSpec]:
    """A net and an engine."""
    chosen: tuple[str, EngineSpec] = request.param
    return chosen


@pytest.fixture(scope="module")
def model(way: tuple[str, EngineSpec], bundle_of: MakeBundle) -> Bundle:
    """A trained bundle of the net."""
    return open_bundle(bundle_of(way[0]))


@pytest.fixture(scope="module")
def engine(way: tuple[str, EngineSpec], model: Bundle) -> Engine:
    """The engine."""
    return make_engine(way[1], model)


@pytest.fixture(scope="module")
def reviews(model: Bundle, small_reviews: Reviews) -> list[Ids]:
    """Real reviews, and those at the edge: padding alone, one and two words, unknown words, a long one."""
    unknown, pad = model.card.vocabulary, model.card.pad_id
    edge = ([pad], [0], [unknown], [0, 1], [unknown] * 2, list(range(700)))
    real = [model.tokenizer.encode(example.text or "") for example in small_reviews.held_out[: REVIEWS - len(edge)]]
    return [*(np.array(words, dtype=np.int64) for words in edge), *real]


@pytest.fixture(scope="module")
def published(model: Bundle, reviews: list[Ids]) -> Probabilities:
    """What Paddle's own kernels say, each review in a call of its own."""
    engine = make_engine(EngineSpec("paddle", variant="plain"), model)
    return np.concatenate([engine.run([review]) for review in reviews])


def test_every_engine_gives_the_published_answers(engine: Engine, reviews: list[Ids], published: Probabilities) -> None:
    answers = np.concatenate([engine.run([review]) for review in reviews])
    assert answers.dtype == np.float32
    assert answers.shape == (REVIEWS, 2)
    assert answers.sum(axis=1) == pytest.approx(1.0, abs=1e-6)
    assert np.abs(answers - published).max() <= 1e-6


def test_the_model_tells_reviews_apart(published: Probabilities) -> None:
    assert np.ptp(published[:, 1]) > 0.01


@pytest.mark.parametrize("size", BATCHES)
def test_a_review_answers_the_same_in_every_batch(engine: Engine, reviews: list[Ids], size: int) -> None:
    alone = np.concatenate([engine.run([review]) for review in reviews])
    order = np.random.default_rng(size).permutation(len(reviews))
    together = np.empty_like(alone)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        together[rows] = engine.run([reviews[row] for row in rows])
    assert np.array_equal(together.argmax(axis=1), alone.argmax(axis=1))
    assert np.abs(together - alone).max() <= 1e-6


def test_words_as_they_come_from_a_message_are_taken(engine: Engine, reviews: list[Ids]) -> None:
    review = reviews[-1]
    message = memoryview(b"x" + review.tobytes())[1:]  # read-only, and not aligned
    read = np.frombuffer(message, dtype=np.int64)
    assert np.array_equal(engine.run([read]), engine.run([review]))
    assert np.array_equal(engine.run([np.repeat(review, 2)[::2]]), engine.run([review]))


def test_the_cards_accuracy_is_what_is_served(engine: Engine, model: Bundle, small_reviews: Reviews) -> None:
    words = [model.tokenizer.encode(example.text or "") for example in small_reviews.held_out]
    words = [review if len(review) else np.array([model.card.pad_id]) for review in words]
    labels = np.array([example.label for example in small_reviews.held_out])
    accuracy = (engine.run(words).argmax(axis=1) == labels).mean()
    assert model.card.accuracy == pytest.approx(accuracy, abs=1.5 / len(labels))  # one may lie on the edge
    assert model.card.held_out_reviews == len(labels)


@pytest.mark.parametrize("name", REAL)
def test_two_engines_side_by_side_answer_as_one(name: str, bundle: Path, small_reviews: Reviews) -> None:
    opened = open_bundle(bundle)
    words = [opened.tokenizer.encode(example.text or "") for example in small_reviews.held_out[:100]]
    spec = EngineSpec(name, variant=next(iter(ENGINES[name].variants), ""))
    first, second = make_engine(spec, opened), make_engine(spec, opened)
    expected = first.run(words)
    with ThreadPoolExecutor(2) as threads:
        for answers in threads.map(lambda engine: [engine.run(words) for _ in range(4)], [first, second]):
            assert all(np.array_equal(answer, expected) for answer in answers)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("word", [-1, 1, 2, 1 << 40, -(1 << 63)])
def test_a_word_that_a_table_does_not_have_is_refused_and_ends_nothing(bundle: Path, name: str, word: int) -> None:
    """Looking it up would read other memory, or end the process. 1 is the first beyond the last row."""
    opened = open_bundle(bundle)
    engine = make_engine(EngineSpec(name), opened)
    last = opened.card.pad_id
    beyond = last + word if word in {1, 2} else word
    with pytest.raises(BadRequest, match=f"word id {beyond} is outside 0..{last}"):
        engine.run([np.array([3, beyond, 4])])
    assert engine.run([np.array([last])]).shape == (1, 2)


def test_the_engine_none_is_taken_by_its_former_name() -> None:
    assert EngineSpec("null").name == "none"
    assert EngineSpec("null") == EngineSpec("none")
