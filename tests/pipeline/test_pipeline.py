"""The pipeline refuses what it cannot answer and answers the rest by the definitions."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import BadRequest
from imdb_serving.messages import Reply, Request, Tensor
from imdb_serving.model.signature import Ids
from imdb_serving.pipeline import InferOp, Limits, Op, Pipeline, ReaderOp, Reading, ResponseOp, Work, imdb_pipeline
from imdb_serving.text.reviews import Vocabulary
from imdb_serving.text.tokenizers import WordTokenizer
from imdb_serving.timing import Timeline

MAX_SAMPLES, MAX_WORDS, MAX_REVIEW_WORDS = Limits().samples, Limits().words, Limits().review_words
VOCABULARY = Vocabulary(["good", "bad", "film"])
PROBABILITIES = np.array([[0.25, 0.75], [0.9, 0.1], [0.4, 0.6], [1.0, 0.0]], dtype=np.float32)


class FixedEngine:
    """Answers review i with row i of `PROBABILITIES`, and remembers what it was fed."""

    def __init__(self) -> None:
        self.fed: list[list[int]] = []
        self.answered = 0

    def run(self, reviews: Sequence[Ids]) -> np.ndarray:
        self.fed += [review.tolist() for review in reviews]
        answer = PROBABILITIES[self.answered : self.answered + len(reviews)]
        self.answered += len(reviews)
        return answer


def reader() -> ReaderOp:
    return ReaderOp(Reading(WordTokenizer(VOCABULARY), rows=5, pad_id=4))


def ids(*samples: Sequence[int]) -> Tensor:
    return Tensor(np.array([word for sample in samples for word in sample], np.int64), tuple(map(len, samples)))


def text(*samples: bytes) -> Tensor:
    return Tensor(np.frombuffer(b"".join(samples), np.uint8), tuple(map(len, samples)), text=True)


def labels(*values: int) -> Tensor:
    return Tensor(np.array(values, np.int64))


def ask(pipeline: Pipeline, fetch: Sequence[str] = ("prediction",), **feed: Tensor) -> Reply:
    samples = next(iter(feed.values())).samples
    return pipeline(Request(feed, tuple(fetch), samples), Timeline())


def run_ask(fetch: Sequence[str] = ("prediction",), **feed: Tensor) -> tuple[Reply, FixedEngine]:
    engine = FixedEngine()
    return ask(Pipeline([reader(), InferOp(engine), ResponseOp()]), fetch, **feed), engine


def refusal(fetch: Sequence[str] = ("prediction",), **feed: Tensor) -> str:
    with pytest.raises(BadRequest) as caught:
        run_ask(fetch, **feed)
    return str(caught.value)


def test_an_unknown_feed_name_is_refused_with_the_known_ones_and_the_nearest() -> None:
    assert refusal(word=ids([1])) == "unknown feed name 'word'; did you mean 'words'? (known: label, words)"


def test_an_unknown_fetch_name_is_refused_with_the_known_ones_and_the_nearest() -> None:
    message = refusal(["predictions"], words=ids([1]))
    assert "'predictions'; did you mean 'prediction'? (known: acc, class, cost, prediction)" in message


def test_a_name_unlike_all_others_gets_the_list_and_no_guess() -> None:
    message = refusal(["zzz"], words=ids([1]))
    assert "did you mean" not in message
    assert "known: acc, class, cost, prediction" in message


@pytest.mark.parametrize("name", ["acc", "cost"])
def test_acc_and_cost_need_a_label(name: str) -> None:
    assert refusal(["prediction", name], words=ids([1])) == f"fetch '{name}' needs a 'label' in the feed"


def test_words_are_needed() -> None:
    assert "'words' is missing" in refusal(label=labels(1))


@pytest.mark.parametrize(
    "label",
    [
        Tensor(np.array([1.0])),
        Tensor(np.array([[0, 1]])),
        Tensor(np.zeros((1, 0), np.int64)),
    ],
    ids=["float", "two a sample", "none"],
)
def test_a_label_must_be_one_integer_a_sample(label: Tensor) -> None:
    assert "must be one integer a sample" in refusal(words=ids([1]), label=label)


def test_ragged_labels_cannot_slip_to_another_sample() -> None:
    shifted = Tensor(np.array([0, 1]), (2, 0))
    assert "label" in refusal(["acc"], words=ids([1], [2]), label=shifted)


@pytest.mark.parametrize("value", [-1, 2, 1 << 40])
def test_a_label_must_be_0_or_1(value: int) -> None:
    assert "must be 0 (negative) or 1 (positive)" in refusal(words=ids([1]), label=labels(value))


def test_a_label_may_have_a_second_axis_of_one() -> None:
    reply, _ = run_ask(["acc"], words=ids([1], [2]), label=Tensor(np.array([[1], [1]], np.int32)))
    assert reply.outputs["acc"].tolist() == [[1.0], [0.0]]


def test_word_ids_must_be_those_of_the_vocabulary_or_the_unknown_one() -> None:
    assert refusal(words=ids([0, 5])) == "word id 5 is outside 0..4 (3 is the unknown word, 4 padding)"
    assert refusal(words=ids([0], [-1])) == "word id -1 is below 0"
    _, engine = run_ask(words=ids([0, 3]))
    assert engine.fed == [[0, 3]]


def test_words_must_be_integers() -> None:
    assert "must be integers or text, got float64" in refusal(words=Tensor(np.array([1.0]), (1,)))


@pytest.mark.parametrize("shape", [(2,), (2, 1, 1)])
def test_dense_words_need_two_axes(shape: tuple[int, ...]) -> None:
    assert "shape [samples, words]" in refusal(words=Tensor(np.zeros(shape, np.int64)))


def test_dense_words_are_one_review_a_row() -> None:
    _, engine = run_ask(words=Tensor(np.array([[0, 1], [2, 3]], np.int32)))
    assert engine.fed == [[0, 1], [2, 3]]


def test_text_becomes_the_ids_of_its_words() -> None:
    _, engine = run_ask(words=text(b"A GOOD film", b"", b"bad"))
    assert engine.fed == [[3, 0, 2], [4], [1]]


def test_text_that_is_not_utf8_is_refused_also_when_a_sample_ends_within_a_character() -> None:
    assert "not valid UTF-8" in refusal(words=text(b"good \xff"))
    assert "not valid UTF-8" in refusal(words=text(b"\xc3", b"\xa9"))


def test_text_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(BadRequest, match="no vocabulary"):
        ask(imdb_pipeline(EngineSpec("none"), None), words=text(b"good"))


def zeros(*lengths: int) -> Tensor:
    return Tensor(np.zeros(sum(lengths), np.int64), lengths)


def test_what_a_request_may_ask_for_is_limited_by_what_it_costs_not_by_its_bytes() -> None:
    pipeline = imdb_pipeline(EngineSpec("none"), None)
    most = zeros(*[MAX_REVIEW_WORDS] * (MAX_WORDS // MAX_REVIEW_WORDS))
    assert ask(pipeline, words=most).outputs["prediction"].shape == (most.samples, 2)
    assert ask(pipeline, words=zeros(*[0] * MAX_SAMPLES)).outputs["prediction"].shape == (MAX_SAMPLES, 2)
    for words, message in (
        (zeros(*[0] * (MAX_SAMPLES + 1)), f"{MAX_SAMPLES + 1} samples are more than a request's {MAX_SAMPLES}"),
        (zeros(*most.lengths or (), 1), f"more than the {MAX_WORDS} words of a request"),
        (zeros(1, MAX_REVIEW_WORDS + 1), f"a review of {MAX_REVIEW_WORDS + 1} words is longer than {MAX_REVIEW_WORDS}"),
    ):
        with pytest.raises(BadRequest, match=message):
            ask(pipeline, words=words)


def test_text_is_limited_by_its_words() -> None:
    many = b"a " * (MAX_REVIEW_WORDS + 1)
    assert f"a review of {MAX_REVIEW_WORDS + 1} words is longer" in refusal(words=text(many))
    many = b"a " * MAX_REVIEW_WORDS
    assert "words of a request" in refusal(words=text(*[many] * (MAX_WORDS // MAX_REVIEW_WORDS), b"a"))


def test_outputs_are_what_their_definitions_say() -> None:
    reply, _ = run_ask(["cost", "prediction", "acc"], words=ids([0], [1], [2], []), label=labels(1, 1, 0, 0))
    assert list(reply.outputs) == ["cost", "prediction", "acc"]
    assert reply.outputs["prediction"].tolist() == PROBABILITIES.tolist()
    assert reply.outputs["acc"].tolist() == [[1.0], [0.0], [0.0], [1.0]]
    by_hand = [[-math.log(0.75)], [-math.log(0.1)], [-math.log(0.4)], [0.0]]
    assert reply.outputs["cost"] == pytest.approx(np.array(by_hand), abs=1e-6)
    assert {values.dtype for values in reply.outputs.values()} == {np.dtype(np.float32)}


def test_the_cost_of_an_impossible_label_is_finite() -> None:
    reply, _ = run_ask(["cost"], words=ids([0], [0], [0], [0]), label=labels(1, 0, 1, 1))
    assert np.isfinite(reply.outputs["cost"]).all()
    assert reply.outputs["cost"][3, 0] > 80


def test_only_what_is_fetched_is_sent() -> None:
    reply, _ = run_ask(["acc"], words=ids([0]), label=labels(1))
    assert list(reply.outputs) == ["acc"]


def test_the_stages_are_the_ops_in_order() -> None:
    reply, _ = run_ask(words=ids([0]))
    assert [stage.name for stage in reply.stages] == ["op0", "op1", "op2"]
    assert all(left.end_ns <= right.start_ns for left, right in pairwise(reply.stages))


class FlipOp:
    """An op of one's own: calls every review by its opposite, slowly."""

    name = "flip"

    def run(self, work: Work) -> None:
        time.sleep(0.01)
        assert work.probabilities is not None
        work.probabilities = work.probabilities[:, ::-1]


def test_an_op_of_ones_own_takes_its_place_and_is_timed() -> None:
    pipeline = Pipeline([reader(), InferOp(FixedEngine()), FlipOp(), ResponseOp()])
    reply = ask(pipeline, words=ids([0]))
    assert reply.outputs["prediction"].tolist() == [[0.75, 0.25]]
    assert [stage.name for stage in reply.stages] == ["op0", "op1", "flip", "op2"]
    flip = reply.stages[2]
    assert flip.end_ns - flip.start_ns >= 10_000_000


def test_two_ops_of_one_name_are_refused() -> None:
    twice: list[Op] = [FlipOp(), FlipOp()]
    with pytest.raises(ValueError, match="two ops share a name"):
        Pipeline(twice)


def test_a_response_without_probabilities_is_a_fault_of_the_pipeline() -> None:
    with pytest.raises(RuntimeError, match=r"fills work\.probabilities"):
        ask(Pipeline([reader(), ResponseOp()]), words=ids([0]))
