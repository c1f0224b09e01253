"""The ops of the IMDB pipeline: op0 reads, op1 infers, op2 responds.

An op is one small class with a `name` and a `run` that works on a `Work`; one's own goes anywhere into a pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imdb_serving.engines.engine import Engine, Words
from imdb_serving.errors import BadRequest, did_you_mean
from imdb_serving.messages import Array, Request, Tensor
from imdb_serving.text.vocabulary import Vocabulary

FEED_NAMES = ("words", "label")
FETCH_NAMES = ("prediction", "acc", "cost")
NEED_LABEL = frozenset({"acc", "cost"})
MAX_SAMPLES = 4096
MAX_WORDS = 1 << 20
MAX_REVIEW_WORDS = 1 << 16
"""What one request may ask for: samples, words in all, words of one review. An engine allocates for one review at a
time (about 3 KB a word in Paddle, 200 MB at the limit) and works for all of them."""


@dataclass(slots=True)
class Work:
    """A request on its way through the ops: each op reads what it needs and leaves what it made."""

    request: Request
    reviews: list[Words] = field(default_factory=list)
    labels: NDArray[np.int64] | None = None
    probabilities: NDArray[np.float32] | None = None
    outputs: dict[str, Array] = field(default_factory=dict)


class Op(Protocol):
    """One named step; raises a `ServingError` to refuse the request."""

    name: str

    def run(self, work: Work) -> None:
        """Do this step's part of `work`."""


class ReaderOp:
    """op0: from a request's tensors to the word ids of each review, everything checked before the model runs."""

    name = "op0"

    def __init__(self, vocabulary: Vocabulary | None) -> None:
        """Take the model's vocabulary; without one (stand-in engines) any id from 0 is accepted, no text."""
        self._vocabulary = vocabulary
        # An empty review is one padding word: its id is behind all words and the unknown one.
        self._empty = np.array([vocabulary.unknown + 1 if vocabulary else 0], dtype=np.int64)

    def run(self, work: Work) -> None:
        """Check names, sizes, words and labels, and take the reviews apart."""
        request = work.request
        self._check_names(request)
        if "label" in request.feed:
            work.labels = self._labels(request)
        if request.samples > MAX_SAMPLES:
            raise BadRequest(f"{request.samples} samples are more than a request's {MAX_SAMPLES}; send smaller batches")
        reviews = self._words(request.feed["words"])
        longest = max(map(len, reviews))
        if longest > MAX_REVIEW_WORDS:
            raise BadRequest(f"a review of {longest} words is longer than {MAX_REVIEW_WORDS}; send less of it")
        work.reviews = [review if len(review) else self._empty for review in reviews]

    @staticmethod
    def _check_names(request: Request) -> None:
        for name in request.feed:
            if name not in FEED_NAMES:
                raise BadRequest(f"unknown feed name {name!r}{did_you_mean(name, FEED_NAMES)}")
        if len(set(request.fetch)) != len(request.fetch):
            raise BadRequest(f"a fetch name is asked for twice: {', '.join(request.fetch)}")
        for name in request.fetch:
            if name not in FETCH_NAMES:
                raise BadRequest(f"unknown fetch name {name!r}{did_you_mean(name, FETCH_NAMES)}")
            if name in NEED_LABEL and "label" not in request.feed:
                raise BadRequest(f"fetch {name!r} needs a 'label' in the feed")
        if "words" not in request.feed:
            raise BadRequest("feed 'words' is missing; send word ids or text")

    def _words(self, tensor: Tensor) -> list[NDArray[np.int64]]:
        if tensor.lengths is None and tensor.values.ndim != 2:
            raise BadRequest("feed 'words' must be ragged (with lengths) or have shape [samples, words]")
        if tensor.text:
            return self._encode(tensor)
        self._check_size(tensor.values.size)
        if tensor.values.dtype.kind not in "iu":
            raise BadRequest(f"feed 'words' must be integers or text, got {tensor.values.dtype}")
        if tensor.values.size:
            lowest, highest = int(tensor.values.min()), int(tensor.values.max())
            if lowest < 0:
                raise BadRequest(f"word id {lowest} is below 0")
            if self._vocabulary is not None and highest > self._vocabulary.unknown:
                unknown = self._vocabulary.unknown
                raise BadRequest(f"word id {highest} is outside 0..{unknown} ({unknown} is the unknown word)")
        return [words.astype(np.int64, copy=False) for words in tensor.split()]

    def _encode(self, tensor: Tensor) -> list[NDArray[np.int64]]:
        if self._vocabulary is None:
            raise BadRequest("this server has no vocabulary and cannot read text; send word ids")
        reviews, words = [], 0
        try:
            for text in tensor.split():
                reviews.append(self._vocabulary.encode(text.tobytes().decode("utf-8")))
                words += len(reviews[-1])
                self._check_size(words)
        except UnicodeDecodeError as error:
            raise BadRequest(f"feed 'words' is not valid UTF-8: {error}") from error
        return reviews

    @staticmethod
    def _check_size(words: int) -> None:
        if words > MAX_WORDS:
            raise BadRequest(f"more than the {MAX_WORDS} words of a request; send smaller batches")

    @staticmethod
    def _labels(request: Request) -> NDArray[np.int64]:
        values, lengths = request.feed["label"].values, request.feed["label"].lengths
        if lengths is not None or values.dtype.kind not in "iu" or values.size != request.samples:
            raise BadRequest(f"feed 'label' must be one integer a sample, got {values.dtype} {list(values.shape)}")
        labels = values.reshape(-1).astype(np.int64, copy=False)
        if not np.isin(labels, (0, 1)).all():
            raise BadRequest("feed 'label' must be 0 (negative) or 1 (positive)")
        return labels


class InferOp:
    """op1: the engine."""

    name = "op1"

    def __init__(self, engine: Engine) -> None:
        """Take the engine that this pipeline alone uses."""
        self._engine = engine

    def run(self, work: Work) -> None:
        """Compute the probabilities of all samples, shape [samples, 2]."""
        work.probabilities = self._engine.run(work.reviews)


class ResponseOp:
    """op2: from probabilities to the fetched outputs."""

    name = "op2"

    def run(self, work: Work) -> None:
        """Fill `outputs` with what the request fetches, each with the sample as first axis.

        `prediction` [N, 2] are the probabilities of negative and positive; `acc` [N, 1] is 1 where the likelier class
        is the label; `cost` [N, 1] is the cross-entropy, -ln of the label's probability.
        """
        probabilities = work.probabilities
        if probabilities is None:
            raise RuntimeError("op2 runs behind an op that fills work.probabilities")
        outputs: Mapping[str, Array] = {"prediction": probabilities}
        if work.labels is not None:
            rows = np.arange(len(probabilities))
            right = probabilities.argmax(axis=1) == work.labels
            likelihood = np.maximum(probabilities[rows, work.labels], np.finfo(np.float32).tiny)
            outputs = {
                **outputs,
                "acc": right.astype(np.float32)[:, None],
                "cost": -np.log(likelihood)[:, None],
            }
        work.outputs.update({name: outputs[name] for name in work.request.fetch})
