"""Training a net on reviews, and exporting it as a bundle.

Seeded; long reviews are cut to a random window while training (whole when evaluated), to a shorter one in the first
epoch, so that one default training fits into half a minute on two cores. The best epoch by validation accuracy is
kept; the accuracy in the model card is measured once, on held-out reviews that neither training nor that choice saw.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

import imdb_serving
from imdb_serving.errors import BundleError, ConfigError, DataError, did_you_mean
from imdb_serving.model import EXPORTED, ONNX, VOCABULARY, nets
from imdb_serving.model.bundle import Bundle, write_bundle
from imdb_serving.model.card import ModelCard
from imdb_serving.model.conf import IMDB_CONF
from imdb_serving.model.export import to_onnx
from imdb_serving.model.nets import functional, pad, paddle
from imdb_serving.text.formats import Example
from imdb_serving.text.reviews import Reviews, Vocabulary

Encoded = tuple[Sequence[NDArray[np.int64]], NDArray[np.int64]]

VALIDATION_SHARE = 0.05
SORTED_TOGETHER = 50
EVALUATION_ROWS = 64
LENGTH_MULTIPLE = 32  # oneDNN prepares a primitive for every shape, so there should be few


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Everything that decides how a net is trained."""

    net: str = "cnn"
    epochs: int = 2
    seed: int = 2020
    batch: int = 64
    learning_rate: float = 3e-3
    window: int = 160
    minimum_count: int = 2

    @property
    def word_dropout(self) -> float:
        """The share of words hidden while training: none in a short training, which has no time to overfit."""
        return 0.4 if self.epochs > 2 else 0.0

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be followed."""
        if self.net not in nets.NETS:
            raise ConfigError(f"unknown net {self.net!r}{did_you_mean(self.net, nets.NETS)}")
        if min(self.epochs, self.batch, self.window, self.minimum_count) < 1:
            raise ConfigError("epochs, batch, window and minimum_count must be at least 1")


class Trainer:
    """Trains one net; `fit` is the whole of it."""

    def __init__(self, plan: TrainingPlan, vocabulary: Vocabulary) -> None:
        """Make the net with seeded weights."""
        self.plan = plan
        self._pad_id, self._length = len(vocabulary) + 1, plan.window
        self._random = np.random.default_rng(plan.seed)
        paddle.seed(plan.seed)
        self.net = nets.NETS[plan.net](len(vocabulary))

    def fit(self, train: Encoded, validation: Encoded) -> float:
        """Train for the planned epochs, keep the best weights, and return their validation accuracy."""
        steps = -(-len(train[0]) // self.plan.batch)
        total = steps * self.plan.epochs
        rate = paddle.optimizer.lr.CosineAnnealingDecay(self.plan.learning_rate, total)
        optimiser = paddle.optimizer.Adam(rate, parameters=self.net.parameters(), lazy_mode=True)
        best, weights = -1.0, {}
        # No bar where standard error is no terminal: there each epoch is told in a line.
        with tqdm(total=total, desc=f"training {self.plan.net}", unit="step", mininterval=0.2, disable=None) as bar:
            for epoch in range(1, self.plan.epochs + 1):
                self._length = self.plan.window // 2 if epoch == 1 < self.plan.epochs else self.plan.window
                for rows in self._batches(train[0]):
                    loss = self._step([train[0][row] for row in rows], train[1][rows], optimiser)
                    rate.step()
                    bar.set_postfix(
                        epoch=epoch, loss=f"{loss:.3f}", validation=f"{best:.3f}" if best >= 0 else "-", refresh=False
                    )
                    bar.update()
                accuracy = self.accuracy(validation)
                if accuracy > best:
                    best = accuracy
                    weights = {name: value.numpy() for name, value in self.net.state_dict().items()}
                if bar.disable:
                    of = f"training {self.plan.net}: epoch {epoch} of {self.plan.epochs}"
                    print(f"{of}, loss {loss:.3f}, validation {accuracy:.3f}", file=sys.stderr)
        self.net.set_state_dict(weights)
        return best

    def accuracy(self, examples: Encoded) -> float:
        """Return the share of whole reviews whose class is right."""
        self.net.eval()
        with paddle.no_grad():
            share = accuracy(lambda reviews: self.net(*self._feed(reviews)).numpy(), examples)
        self.net.train()
        return share

    def export(self, path: Path) -> None:
        """Write the net with its softmax as a Paddle inference program, and as an ONNX graph beside it."""
        self.net.eval()
        specs = {
            "words": paddle.static.InputSpec([None, None], "int64", "words"),
            "mask": paddle.static.InputSpec([None, 1, None], "float32", "mask"),
        }
        paddle.jit.save(self.net, str(path), input_spec=[specs[name] for name in self.net.inputs])
        weights = {name: value.numpy().copy() for name, value in self.net.state_dict().items()}
        weights["embedding.weight"][self._pad_id] = 0.0  # Paddle takes it for zero, whatever is stored
        onnx.save_model(to_onnx(self.plan.net, weights), path.with_suffix(Path(ONNX).suffix))

    def _batches(self, reviews: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
        """Yield shuffled batches of similar lengths: sorting within a shuffled stretch saves padding."""
        size, order = self.plan.batch, self._random.permutation(len(reviews))
        stretch = size * SORTED_TOGETHER
        for start in range(0, len(order), stretch):
            rows = order[start : start + stretch]
            rows = rows[np.argsort([len(reviews[row]) for row in rows], kind="stable")]
            batches = [rows[first : first + size] for first in range(0, len(rows), size)]
            for chosen in self._random.permutation(len(batches)):
                yield batches[chosen]

    def _step(self, reviews: list[NDArray[np.int64]], labels: NDArray[np.int64], optimiser: Any) -> float:
        logits = self.net(*self._feed([self._window(words) for words in reviews]))
        loss = functional.cross_entropy(logits, paddle.to_tensor(labels))
        loss.backward()
        optimiser.step()
        optimiser.clear_grad()
        return float(loss)

    def _window(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        excess = len(words) - self._length
        start = int(self._random.integers(0, excess + 1)) if excess > 0 else 0
        words = words[start : start + self._length]
        if self.plan.word_dropout:
            words = np.where(self._random.random(len(words)) < self.plan.word_dropout, self._pad_id, words)
        return words

    def _feed(self, reviews: Sequence[NDArray[np.int64]]) -> list[Any]:
        feed = pad(reviews, self._pad_id, LENGTH_MULTIPLE)
        return [paddle.to_tensor(getattr(feed, name)) for name in self.net.inputs]


def accuracy(predict: Callable[[list[NDArray[np.int64]]], NDArray[np.float32]], examples: Encoded) -> float:
    """Return the share of reviews whose likelier class by `predict` is the label."""
    order = np.argsort([len(words) for words in examples[0]], kind="stable")
    right = 0
    for start in range(0, len(order), EVALUATION_ROWS):
        rows = order[start : start + EVALUATION_ROWS]
        answers = predict([examples[0][row] for row in rows])
        right += int((answers.argmax(axis=1) == examples[1][rows]).sum())
    return right / len(order)


def _encode(examples: Sequence[Example], vocabulary: Vocabulary) -> Encoded:
    words = [vocabulary.encode(example.text or "") for example in examples]
    return words, np.array([example.label for example in examples], dtype=np.int64)


def train_bundle(plan: TrainingPlan, reviews: Reviews, root: Path) -> Bundle:
    """Train as planned, measure the accuracy on the held-out reviews, and write the bundle below `root`.

    Raises `DataError` when the source has no text or too few reviews to learn from.
    """
    if any(example.text is None for example in reviews.train):
        raise DataError(f"{reviews.source} holds word ids only; training needs the text of the reviews")
    if len(reviews.train) < 2 or not reviews.held_out:
        raise DataError(f"{reviews.source} holds too few reviews to train on and to hold some out")
    vocabulary = Vocabulary.build((example.text or "" for example in reviews.train), plan.minimum_count)
    if not len(vocabulary):
        raise DataError(f"no word occurs {plan.minimum_count} times in the training reviews of {reviews.source}")
    kept_back = max(1, round(len(reviews.train) * VALIDATION_SHARE))
    trainer = Trainer(plan, vocabulary)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # found out before minutes of training, not after
        raise BundleError(f"cannot write a model to {root}: {error}") from error
    validation = trainer.fit(
        _encode(reviews.train[kept_back:], vocabulary), _encode(reviews.train[:kept_back], vocabulary)
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        trainer.export(folder / "inference")
        vocabulary.save(folder / VOCABULARY)
        held_out = trainer.accuracy(_encode(reviews.held_out, vocabulary))
        card = _card(plan, reviews, vocabulary, validation=validation, held_out=held_out)
        return write_bundle(root, card, IMDB_CONF, {name: folder / name for name in (*EXPORTED, VOCABULARY)})


def _card(
    plan: TrainingPlan,
    reviews: Reviews,
    vocabulary: Vocabulary,
    *,
    validation: float,
    held_out: float,
) -> ModelCard:
    return ModelCard(
        net=plan.net,
        vocabulary=len(vocabulary),
        sizes={
            "embedding": nets.EMBEDDING,
            "hidden": nets.HIDDEN,
            "second_hidden": nets.SECOND_HIDDEN,
            "window": nets.WINDOW,
            "classes": nets.CLASSES,
        },
        accuracy=held_out,
        validation_accuracy=validation,
        epochs=plan.epochs,
        seed=plan.seed,
        data_source=reviews.source,
        data_sha256=reviews.checksum,
        train_reviews=len(reviews.train),
        held_out_reviews=len(reviews.held_out),
        versions={
            "imdb_serving": imdb_serving.__version__,
            "paddlepaddle": paddle.__version__,
            "python": platform.python_version(),
        },
    )
