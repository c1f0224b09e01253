"""The IMDB pipeline: op0 reads, op1 infers, op2 responds, each timed under its own name; and the limits of a request.

A pipeline is the handler that a server calls. A request's limits exist because an engine allocates for each review and
computes all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from imdb_serving.config import MAX_REVIEW_WORDS, MAX_SAMPLES
from imdb_serving.engines.engine import Engine, Words, warm_up
from imdb_serving.engines.registry import EngineSpec, make_engine
from imdb_serving.errors import BadRequest, RequestTimeout, did_you_mean
from imdb_serving.messages import Array, Reply, Request, Tensor
from imdb_serving.model.bundle import Bundle
from imdb_serving.text.reviews import Vocabulary
from imdb_serving.timing import Stage, Timeline


@dataclass(frozen=True, slots=True)
class Limits:
    """Samples, words in all, and words of one review (about 3 KB a word in Paddle, 200 MB at the default)."""

    samples: int = MAX_SAMPLES
    words: int = 1 << 20
    review_words: int = MAX_REVIEW_WORDS


DEFAULT_LIMITS = Limits()


INT64 = np.dtype(np.int64)
UINT64 = np.dtype(np.uint64)
UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}

FEED_NAMES = ("words", "label")
FETCH_NAMES = ("prediction", "acc", "cost")
NEED_LABEL = frozenset({"acc", "cost"})
MAX_SOUND = 64
"""How many combinations of fetch names are remembered as sound."""


class Work(msgspec.Struct):
    """A request on its way through the ops: each op reads what it needs and leaves what it made."""

    request: Request
    reviews: list[Words] = []
    labels: list[int] | None = None
    probabilities: NDArray[np.float32] | None = None
    outputs: dict[str, Array] = {}


class Op(Protocol):
    """One named step; raises a `ServingError` to refuse the request."""

    name: str

    def run(self, work: Work) -> None:
        """Do this step's part of `work`."""


class ReaderOp:
    """op0: from a request's tensors to the word ids of each review, everything checked before the model runs."""

    name = "op0"

    def __init__(self, vocabulary: Vocabulary | None, limits: Limits = DEFAULT_LIMITS) -> None:
        """Take the model's vocabulary; without one (stand-in engines) any id from 0 is accepted, no text."""
        self._vocabulary, self._limits = vocabulary, limits
        self._max_review_words = limits.review_words
        # Behind all words stand the unknown one and the padding word, whose vector is zero.
        self._highest = vocabulary.unknown + 1 if vocabulary else np.iinfo(np.int64).max
        self._range = range(self._highest + 1)
        self._sound: set[tuple[str, ...]] = set()  # combinations of fetch names that were found sound without a label
        self._empty = np.array([self._highest if vocabulary else 0], dtype=np.int64)  # one padding word

    def run(self, work: Work) -> None:
        request = work.request
        feed = request.feed
        if len(feed) > 1 or request.fetch not in self._sound or "words" not in feed:
            _check_names(request)
            if len(feed) > 1:
                work.labels = _labels(request)
            elif len(self._sound) < MAX_SOUND:
                self._sound.add(request.fetch)
        words = feed["words"]
        if (
            words.values.dtype is INT64
            and words.lengths == words.values.shape
            and 0 < words.values.size <= self._max_review_words
        ):
            # One review as ids, as most clients send: all that follows is for others.
            values = words.values
            if values.item(values.view(UINT64).argmax()) not in self._range:  # as in `_check_ids`
                self._check_ids(values)
            work.reviews = [values]  # type: ignore[list-item]
            return
        limits = self._limits
        if request.samples > limits.samples:
            raise BadRequest(
                f"{request.samples} samples are more than a request's {limits.samples}; send smaller batches"
            )
        reviews = self._words(words)
        lengths = [len(review) for review in reviews]
        if max(lengths) > limits.review_words:
            raise BadRequest(f"a review of {max(lengths)} words is longer than {limits.review_words}; send less of it")
        work.reviews = reviews if all(lengths) else [review if len(review) else self._empty for review in reviews]

    def _words(self, tensor: Tensor) -> list[NDArray[np.int64]]:
        values = tensor.values
        if tensor.lengths is None and values.ndim != 2:
            raise BadRequest("feed 'words' must be ragged (with lengths) or have shape [samples, words]")
        if tensor.text:
            return self._encode(tensor)
        if values.size > self._limits.words:
            raise self._too_many_words()
        if values.dtype is not INT64 and values.dtype.kind not in "iu":
            raise BadRequest(f"feed 'words' must be integers or text, got {values.dtype}")
        if values.size:
            self._check_ids(values)
        return [words.astype(np.int64, copy=False) for words in tensor.split()]

    def _check_ids(self, values: Array) -> None:
        # Seen as unsigned, what is below 0 is above everything: one pass finds both.
        if values.item(values.view(UNSIGNED[values.itemsize]).argmax()) in self._range:
            return
        lowest, highest = int(values.min()), int(values.max())
        if lowest < 0:
            raise BadRequest(f"word id {lowest} is below 0")
        unknown = self._highest - 1
        raise BadRequest(
            f"word id {highest} is outside 0..{self._highest} ({unknown} is the unknown word, {unknown + 1} padding)"
        )

    def _encode(self, tensor: Tensor) -> list[NDArray[np.int64]]:
        if self._vocabulary is None:
            raise BadRequest("this server has no vocabulary and cannot read text; send word ids")
        reviews, words = [], 0
        try:
            for text in tensor.split():
                reviews.append(self._vocabulary.encode(text.tobytes().decode("utf-8")))
                words += len(reviews[-1])
                if words > self._limits.words:
                    raise self._too_many_words()
        except UnicodeDecodeError as error:
            raise BadRequest(f"feed 'words' is not valid UTF-8: {error}") from error
        return reviews

    def _too_many_words(self) -> BadRequest:
        return BadRequest(f"more than the {self._limits.words} words of a request; send smaller batches")


def _check_names(request: Request) -> None:
    feed, fetch = request.feed, request.fetch
    for name in feed:
        if name not in FEED_NAMES:
            raise BadRequest(f"unknown feed name {name!r}{did_you_mean(name, FEED_NAMES)}")
    if len(set(fetch)) != len(fetch):
        raise BadRequest(f"a fetch name is asked for twice: {', '.join(fetch)}")
    for name in fetch:
        if name not in FETCH_NAMES:
            raise BadRequest(f"unknown fetch name {name!r}{did_you_mean(name, FETCH_NAMES)}")
        if name in NEED_LABEL and "label" not in feed:
            raise BadRequest(f"fetch {name!r} needs a 'label' in the feed")
    if "words" not in feed:
        raise BadRequest("feed 'words' is missing; send word ids or text")


def _labels(request: Request) -> list[int]:
    values, lengths = request.feed["label"].values, request.feed["label"].lengths
    if lengths is not None or values.dtype.kind not in "iu" or values.size != request.samples:
        raise BadRequest(f"feed 'label' must be one integer a sample, got {values.dtype} {list(values.shape)}")
    labels: list[int] = values.reshape(-1).tolist()
    if any(label not in (0, 1) for label in labels):
        raise BadRequest("feed 'label' must be 0 (negative) or 1 (positive)")
    return labels


class InferOp:
    """op1: the engine."""

    name = "op1"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, work: Work) -> None:
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
        outputs = work.outputs
        for name in work.request.fetch:
            if name == "prediction":
                outputs[name] = probabilities
            elif work.labels is not None:
                outputs[name] = _SCORES[name](probabilities, work.labels)


def _accuracy(probabilities: NDArray[np.float32], labels: Sequence[int]) -> NDArray[np.float32]:
    rows = probabilities.tolist()
    return np.array([[float((row[1] > row[0]) == label)] for row, label in zip(rows, labels, strict=True)], np.float32)


def _cost(probabilities: NDArray[np.float32], labels: Sequence[int]) -> NDArray[np.float32]:
    rows = probabilities.tolist()
    return np.array([[-math.log(max(row[label], _TINY))] for row, label in zip(rows, labels, strict=True)], np.float32)


_TINY = float(np.finfo(np.float32).tiny)
_SCORES = {"acc": _accuracy, "cost": _cost}


NEVER = 1 << 63


class Pipeline:
    """Runs a request through its ops, in order."""

    def __init__(self, ops: Sequence[Op]) -> None:
        """Take the ops; their names must differ, for they are the names of the stages."""
        names = [op.name for op in ops]
        if len(set(names)) != len(names):
            raise ValueError(f"two ops share a name: {names}")
        self.ops = tuple(ops)
        self._steps = [(op.name, op.run) for op in ops]

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of the stages, in order."""
        return tuple(op.name for op in self.ops)

    def __call__(self, request: Request, timeline: Timeline) -> Reply:
        """Return the reply to `request`; a `ServingError` of an op refuses it.

        Once the deadline has passed no further op is run, and `RequestTimeout` raised. The first op begins where the
        last stage in the timeline ended: to read a request's tensors belongs to it.
        """
        work = Work(request)
        stages = timeline.stages
        add, now = stages.append, perf_counter_ns
        begun = stages[-1].end_ns if stages else now()
        deadline = timeline.deadline_ns or NEVER
        for name, run in self._steps:
            if begun > deadline:
                raise RequestTimeout(f"the deadline passed before {name}")
            run(work)
            ended = now()
            add(Stage(name, begun, ended))
            begun = ended
        return Reply(work.outputs, stages)


def imdb_pipeline(spec: EngineSpec, bundle: Bundle | None, limits: Limits = DEFAULT_LIMITS) -> Pipeline:
    """Make the IMDB pipeline with an engine of its own, warmed up."""
    engine = make_engine(spec, bundle)
    warm_up(engine)
    return Pipeline([ReaderOp(bundle.vocabulary if bundle else None, limits), InferOp(engine), ResponseOp()])
