"""Training a net and keeping its best epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imdb_serving.errors import ConfigError, DataError
from imdb_serving.model.bundle import open_bundle
from imdb_serving.model.nets import NETS
from imdb_serving.model.training import Encoded, Trainer, TrainingPlan, accuracy, train_bundle
from imdb_serving.text.formats import Example, format_ids
from imdb_serving.text.reviews import Reviews, Vocabulary, load

WORDS = 30
VOCABULARY = Vocabulary([f"word{number}" for number in range(WORDS)])


def toy(count: int, seed: int) -> Encoded:
    """Reviews of random words; those with word 0 in them are positive."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    reviews = [generator.integers(1, WORDS, generator.integers(1, 12)) for _ in range(count)]
    for review, label in zip(reviews, labels, strict=True):
        if label:
            review[generator.integers(len(review))] = 0
    return reviews, labels


def weights_of(trainer: Trainer) -> dict[str, Any]:
    return {name: np.array(value.numpy(), copy=True) for name, value in trainer.net.state_dict().items()}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("net", sorted(NETS))
def test_a_seeded_training_is_the_same_again(net: str) -> None:
    plan = TrainingPlan(net=net, epochs=2, batch=16, seed=5)
    first, second = Trainer(plan, VOCABULARY), Trainer(plan, VOCABULARY)
    accuracies = [trainer.fit(toy(96, 1), toy(48, 2)) for trainer in (first, second)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=1e-3)
    for name, weight in weights_of(first).items():
        assert np.allclose(weight, weights_of(second)[name], atol=1e-4), name


def test_another_seed_gives_other_weights() -> None:
    first, second = (Trainer(TrainingPlan(net="bow", seed=seed), VOCABULARY) for seed in (1, 2))
    assert not same(weights_of(first), weights_of(second))


RECURRENT = pytest.param("lstm", marks=pytest.mark.slow)  # gru, which is as slow, stands for both


@pytest.mark.parametrize("net", [RECURRENT if net == "lstm" else net for net in sorted(NETS)])
def test_every_net_learns_a_simple_task(net: str) -> None:
    trainer = Trainer(TrainingPlan(net=net, epochs=8, batch=16, learning_rate=1e-2), VOCABULARY)
    assert trainer.fit(toy(320, 3), toy(100, 4)) > 0.9


def test_the_best_epoch_is_kept_and_its_accuracy_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(TrainingPlan(net="bow", epochs=3, batch=16), VOCABULARY)
    scores: Iterator[float] = iter([0.4, 0.9, 0.6])
    after_epoch: list[dict[str, Any]] = []

    def score(_: Encoded) -> float:
        after_epoch.append(weights_of(trainer))
        return next(scores)

    monkeypatch.setattr(trainer, "accuracy", score)
    assert trainer.fit(toy(64, 1), toy(16, 2)) == 0.9
    assert same(weights_of(trainer), after_epoch[1])
    assert not same(weights_of(trainer), after_epoch[2])


def test_the_returned_accuracy_is_that_of_the_kept_weights() -> None:
    trainer = Trainer(TrainingPlan(net="cnn", epochs=4, batch=16, learning_rate=5e-2), VOCABULARY)
    validation = toy(48, 2)
    assert trainer.fit(toy(96, 1), validation) == trainer.accuracy(validation)


def test_accuracy_counts_the_right_reviews_of_any_length() -> None:
    reviews, labels = toy(150, 6)

    def says_positive_for_word_0(chosen: list[Any]) -> Any:
        return np.array([[0.0, 1.0] if 0 in review else [1.0, 0.0] for review in chosen])

    assert accuracy(says_positive_for_word_0, (reviews, labels)) == 1.0
    labels[:15] = 1 - labels[:15]
    assert accuracy(says_positive_for_word_0, (reviews, labels)) == pytest.approx(0.9)


def test_the_card_tells_the_plan_and_the_data(bundle_of: Callable[[str], Path], small_reviews: Reviews) -> None:
    card = open_bundle(bundle_of("bow")).card
    assert (card.net, card.epochs, card.seed) == ("bow", 2, 2020)
    assert (card.train_reviews, card.held_out_reviews) == (len(small_reviews.train), len(small_reviews.held_out))
    assert (card.data_source, card.data_sha256) == (small_reviews.source, small_reviews.checksum)


def test_an_unknown_net_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown net 'ltsm'; did you mean 'lstm'\? \(known: bow, cnn, gru, lstm\)"):
        TrainingPlan(net="ltsm")


@pytest.mark.parametrize("option", ["epochs", "batch", "window", "minimum_count"])
def test_a_plan_of_nothing_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        TrainingPlan(**{option: 0})


def test_a_source_of_word_ids_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "ids.data"
    source.write_text("".join(f"{format_ids([1, 2], number % 2)}\n" for number in range(20)), encoding="utf-8")
    with pytest.raises(DataError, match=r"ids\.data holds word ids only; training needs the text"):
        train_bundle(TrainingPlan(), load(str(source)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("train", "held_out"), [(1, 5), (5, 0)])
def test_too_few_reviews_are_refused(tmp_path: Path, train: int, held_out: int) -> None:
    review = Example(label=1, text="great film")
    with pytest.raises(DataError, match="too few reviews"):
        train_bundle(TrainingPlan(), Reviews("tiny", [review] * train, [review] * held_out, ""), tmp_path)


class _Seen(Exception):
    """Ends a training once it is known what it would train on."""


def parts_of_training(monkeypatch: pytest.MonkeyPatch, reviews: Reviews, folder: Path) -> tuple[Encoded, Encoded]:
    """Return what `train_bundle` would train on and validate with."""
    parts: list[tuple[Encoded, Encoded]] = []

    def fit(_: Trainer, train: Encoded, validation: Encoded) -> float:
        parts.append((train, validation))
        raise _Seen

    monkeypatch.setattr(Trainer, "fit", fit)
    with pytest.raises(_Seen):
        train_bundle(TrainingPlan(net="bow", minimum_count=1), reviews, folder)
    return parts[0]


def test_validation_and_held_out_reviews_are_not_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    train = [Example(label=number % 2, text=f"train{number}") for number in range(100)]
    held_out = [Example(label=number % 2, text=f"held{number}") for number in range(20)]
    trained, validation = parts_of_training(monkeypatch, Reviews("unique", train, held_out, ""), tmp_path)
    words = [{int(review[0]) for review in part[0]} for part in (trained, validation)]
    assert not words[0] & words[1]
    assert (len(words[0]), len(words[1])) == (95, 5)


def test_validation_of_the_official_layout_sees_both_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name, rating in (("pos", 9), ("neg", 2)):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(50):
                (folder / f"{number}_{rating}.txt").write_text(f"{name} {number}", encoding="utf-8")
    _, (_, labels) = parts_of_training(monkeypatch, load(f"aclimdb:{tmp_path}"), tmp_path / "out")
    assert set(labels.tolist()) == {0, 1}
