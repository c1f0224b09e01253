"""Heavier checks of training, on the whole packaged set."""

from __future__ import annotations

from pathlib import Path

import pytest

from imdb_serving.model.training import TrainingPlan, train_bundle
from imdb_serving.text.reviews import Reviews

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_the_default_cnn_is_right_on_86_of_100_unseen_reviews(packaged: Reviews, tmp_path: Path) -> None:
    bundle = train_bundle(TrainingPlan(), packaged, tmp_path)
    assert bundle.card.held_out_reviews == 4980
    assert bundle.card.accuracy >= 0.86


@pytest.mark.timeout(900)
@pytest.mark.parametrize("net", ["bow", "lstm", "gru"])
def test_every_net_learns(packaged: Reviews, tmp_path: Path, net: str) -> None:
    few = Reviews("few", packaged.train[:4000], packaged.held_out[:1000], packaged.checksum)
    assert train_bundle(TrainingPlan(net=net, epochs=2, window=96), few, tmp_path).card.accuracy >= 0.7
