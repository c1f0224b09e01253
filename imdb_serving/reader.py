"""op0: from a request's tensors to the ids or texts of each sample, everything checked before a model runs.

A request's limits exist because an engine allocates for each sample and computes all of them. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from imdb_serving.config import MAX_REVIEW_WORDS, MAX_SAMPLES
from imdb_serving.errors import BadRequest, did_you_mean
from imdb_serving.messages import Array, Request, Tensor
from imdb_serving.model.bundle import Bundle
from imdb_serving.model.signature import Role, Sample
from imdb_serving.text.tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Limits:
    """Samples, words in all, and words of one review (about 3 KB a word in Paddle, 200 MB at the default)."""

    samples: int = MAX_SAMPLES
    words: int = 1 << 20
    review_words: int = MAX_REVIEW_WORDS


DEFAULT_LIMITS = Limits()
CHARACTERS_A_WORD = 16
"""So many characters of a text count as a word, where the model reads texts: more than any language's mean."""

INT64 = np.dtype(np.int64)
UINT64 = np.dtype(np.uint64)
UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}

WORDS, LABEL = "words", "label"
FETCH_NAMES = ("prediction", "acc", "cost", "class")
NEED_LABEL = frozenset({"acc", "cost"})
MAX_SOUND = 64
"""How many combinations of names are remembered as sound."""


class Work(msgspec.Struct):
    """A request on its way through the ops: each op reads what it needs and leaves what it made."""

    request: Request
    reviews: list[Sample] = []
    labels: list[int] | None = None
    probabilities: NDArray[np.float32] | None = None
    outputs: dict[str, Array] = {}


class Op(Protocol):
    """One named step; raises a `ServingError` to refuse the request."""

    name: str

    def run(self, work: Work) -> None:
        """Do this step's part of `work`."""


class Reading(NamedTuple):
    """What of a model says how requests are read. Ids are below `rows`; `longest` is the most of a sample, 0 for any.

    `names` are those under which the ids or the text may come, `others` the roles of further inputs by their names.
    """

    tokenizer: Tokenizer | None
    rows: int
    pad_id: int
    longest: int = 0
    classes: int = 2
    names: tuple[str, ...] = (WORDS,)
    others: Mapping[str, Role] = {}

    @classmethod
    def of(cls, bundle: Bundle) -> Reading:
        """Return how the requests of a model are read."""
        card = bundle.card
        names = dict.fromkeys((WORDS, card.main.name))
        found = card.main_inputs if card.imported else ()
        others = {one.name: one.role for one in found if one.role in {"mask", "types", "lengths"}}
        return cls(bundle.tokenizer, card.rows, card.pad_id, card.longest, len(card.labels), tuple(names), others)

    @property
    def feed_names(self) -> tuple[str, ...]:
        """Every name that a feed may have."""
        return (*self.names, *self.others, LABEL)


ANYTHING = Reading(None, np.iinfo(np.int64).max, 0)
"""Without a model: any id from 0, and no text."""


class ReaderOp:
    """op0: from a request's tensors to the samples, everything checked before the model runs."""

    name = "op0"

    def __init__(self, reading: Reading | None, limits: Limits = DEFAULT_LIMITS) -> None:
        """Take what the model says of it; without a model (stand-in engines) any id from 0 is accepted, no text."""
        self._reading = reading or ANYTHING
        self._limits, self._tokenizer = limits, self._reading.tokenizer
        self._reads_text = reading is not None and reading.tokenizer is None
        self._max_review_words = min(limits.review_words, self._reading.longest or limits.review_words)
        self._range = range(self._reading.rows)
        self._feed_names = self._reading.feed_names
        self._sound: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()  # names of feeds and fetches found sound
        self._empty = np.array([self._reading.pad_id], dtype=np.int64)  # one padding word

    def run(self, work: Work) -> None:
        request = work.request
        feed = request.feed
        names = tuple(feed), request.fetch
        if names not in self._sound:
            _check_names(request, self._reading.names, self._feed_names)
            if len(self._sound) < MAX_SOUND:
                self._sound.add(names)
        if LABEL in feed:
            work.labels = _labels(request, self._reading.classes)
        words = feed[WORDS] if WORDS in feed else next(feed[name] for name in self._reading.names if name in feed)
        if (
            words.values.dtype is INT64
            and words.lengths == words.values.shape
            and 0 < words.values.size <= self._max_review_words
            and len(feed) <= 1 + (LABEL in feed)
        ):
            # One review as ids, as most clients send: all that follows is for others.
            values = words.values
            if values.item(values.view(UINT64).argmax()) not in self._range:  # as in `_check_ids`
                self._check_ids(values)
            work.reviews = [values]  # type: ignore[list-item]
            return
        if request.samples > self._limits.samples:
            raise BadRequest(
                f"{request.samples} samples are more than a request's {self._limits.samples}; send smaller batches"
            )
        work.reviews = self._samples(words, request)

    def _samples(self, words: Tensor, request: Request) -> list[Sample]:
        if self._reads_text:
            return self._texts(words)
        reviews = self._words(words)
        if self._reading.others:
            reviews = self._of_others(reviews, request)
        lengths = [len(review) for review in reviews]
        if max(lengths) > self._max_review_words:
            raise BadRequest(
                f"a review of {max(lengths)} words is longer than {self._max_review_words}; send less of it"
            )
        return reviews if all(lengths) else [review if len(review) else self._empty for review in reviews]  # type: ignore[return-value]

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
        if self._reads_text:
            raise BadRequest("this model reads texts; send those, and no word ids")
        if lowest < 0:
            raise BadRequest(f"word id {lowest} is below 0")
        last, padding = self._range.stop - 1, self._reading.pad_id
        told = f"{last - 1} is the unknown word, {last} padding" if last == padding else f"{padding} is padding"
        raise BadRequest(f"word id {highest} is outside 0..{last} ({told})")

    def _encode(self, tensor: Tensor) -> list[NDArray[np.int64]]:
        if self._tokenizer is None:
            raise BadRequest("this server has no vocabulary and cannot read text; send word ids")
        reviews, words = [], 0
        for text in _decoded(tensor):
            reviews.append(self._tokenizer.encode(text))
            words += len(reviews[-1])
            if words > self._limits.words:
                raise self._too_many_words()
        return reviews

    def _texts(self, tensor: Tensor) -> list[Sample]:
        if not tensor.text:
            raise BadRequest("this model reads texts; send those, and no word ids")
        texts = _decoded(tensor)
        longest, most = max(map(len, texts)), self._limits.review_words * CHARACTERS_A_WORD
        if longest > most:
            raise BadRequest(f"a text of {longest} characters is longer than {most}; send less of it")
        if sum(map(len, texts)) > self._limits.words * CHARACTERS_A_WORD:
            raise self._too_many_words()
        return list(texts)

    def _of_others(self, reviews: list[NDArray[np.int64]], request: Request) -> list[NDArray[np.int64]]:
        """Return what is no padding of samples of ids, as the request's further inputs say."""
        kept = [np.ones(len(review), bool) for review in reviews]
        for name, role in self._reading.others.items():
            if name not in request.feed:
                continue
            values = request.feed[name].split()
            if role == "lengths":
                for keep, value in zip(kept, values, strict=True):
                    keep[_length(value, name) :] = False
                continue
            if any(value.shape != review.shape for value, review in zip(values, reviews, strict=True)):
                raise BadRequest(f"feed {name!r} must have a value for each id, as {self._reading.names[-1]!r} has")
            if role == "mask":
                kept = [keep & (value != 0) for keep, value in zip(kept, values, strict=True)]
            elif any(value.any() for value in values):
                raise BadRequest(f"feed {name!r} must be 0: a sample is one text here, not two")
        return [review[keep] for review, keep in zip(reviews, kept, strict=True)]

    def _too_many_words(self) -> BadRequest:
        return BadRequest(f"more than the {self._limits.words} words of a request; send smaller batches")


def _decoded(tensor: Tensor) -> list[str]:
    try:
        return [text.tobytes().decode("utf-8") for text in tensor.split()]
    except UnicodeDecodeError as error:
        raise BadRequest(f"feed 'words' is not valid UTF-8: {error}") from error


def _length(value: Array, name: str) -> int:
    if value.size != 1 or value.dtype.kind not in "iu" or value.item() < 0:
        raise BadRequest(f"feed {name!r} must be one whole number of at least 0 a sample")
    return int(value.item())


def _check_names(request: Request, mains: Sequence[str], known: Sequence[str]) -> None:
    feed, fetch = request.feed, request.fetch
    for name in feed:
        if name not in known:
            raise BadRequest(f"unknown feed name {name!r}{did_you_mean(name, known)}")
    if len(set(fetch)) != len(fetch):
        raise BadRequest(f"a fetch name is asked for twice: {', '.join(fetch)}")
    for name in fetch:
        if name not in FETCH_NAMES:
            raise BadRequest(f"unknown fetch name {name!r}{did_you_mean(name, FETCH_NAMES)}")
        if name in NEED_LABEL and LABEL not in feed:
            raise BadRequest(f"fetch {name!r} needs a 'label' in the feed")
    given = [name for name in mains if name in feed]
    if not given:
        raise BadRequest("feed 'words' is missing; send word ids or text")
    if len(given) > 1:
        raise BadRequest(f"feeds {' and '.join(map(repr, given))} are two names of the same; send one")


def _labels(request: Request, classes: int) -> list[int]:
    values, lengths = request.feed[LABEL].values, request.feed[LABEL].lengths
    if lengths is not None or values.dtype.kind not in "iu" or values.size != request.samples:
        raise BadRequest(f"feed 'label' must be one integer a sample, got {values.dtype} {list(values.shape)}")
    labels: list[int] = values.reshape(-1).tolist()
    if not 0 <= min(labels) <= max(labels) < classes:
        known = "0 (negative) or 1 (positive)" if classes == 2 else f"a class from 0 to {classes - 1}"
        raise BadRequest(f"feed 'label' must be {known}")
    return labels
