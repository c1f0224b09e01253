"""JSON bodies: what was written is what is read, and whatever arrives, only typed errors are raised."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.errors import BadRequest, RemoteFailure, words_of
from imdb_serving.messages import Reply, Request, Tensor
from imdb_serving.protocol import json_bodies
from imdb_serving.protocol.json_bodies import Form, MalformedBody
from imdb_serving.protocol.requests import make_request
from imdb_serving.timing import CLOCK_ID, Stage

WORDS = st.one_of(st.lists(st.integers(0, (1 << 63) - 1), max_size=6), st.text(max_size=8))
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def body(**members: Any) -> bytes:
    return json.dumps({"fetch": ["prediction"], **members}).encode()


def assert_same(left: Request, right: Request) -> None:
    assert (left.fetch, left.samples, list(left.feed)) == (right.fetch, right.samples, list(right.feed))
    for name, tensor in left.feed.items():
        other = right.feed[name]
        assert (tensor.lengths, tensor.text) == (other.lengths, other.text)
        np.testing.assert_array_equal(tensor.values, other.values)


@st.composite
def feeds(draw: st.DrawFn) -> list[dict[str, Any]]:
    kind = draw(st.sampled_from([st.lists(st.integers(0, (1 << 63) - 1), max_size=6), st.text(max_size=8)]))
    label = draw(st.booleans())
    return [
        {"words": draw(kind), **({"label": draw(st.integers(0, 1))} if label else {})}
        for _ in range(draw(st.integers(1, 4)))
    ]


@given(feeds())
def test_a_request_survives_the_journey(samples: list[dict[str, Any]]) -> None:
    request = make_request(samples, ["prediction"])
    arrived, form = json_bodies.decode_request(json_bodies.encode_request(request))
    assert_same(arrived, request)
    assert form == Form(batch=len(samples) > 1, feed=False)


@given(feeds())
def test_the_form_with_feed_is_the_same_request(samples: list[dict[str, Any]]) -> None:
    arrived, form = json_bodies.decode_request(body(feed=samples))
    assert_same(arrived, make_request(samples, ["prediction"]))
    assert form == Form(batch=True, feed=True)


@given(st.lists(st.lists(FLOATS, min_size=2, max_size=2), min_size=1, max_size=5))
def test_values_of_float32_survive_bit_for_bit(rows: list[list[float]]) -> None:
    values = np.array(rows, np.float32)
    form = Form(batch=len(rows) > 1, feed=False)
    arrived = json_bodies.decode_reply(json_bodies.encode_reply(Reply({"prediction": values}), form), len(rows))
    assert arrived["prediction"].dtype == np.float32
    assert arrived["prediction"].tobytes() == values.tobytes()


def test_a_single_sample_is_written_as_the_published_clients_do() -> None:
    request = make_request([{"words": [8, 233, 52], "label": 0}], ["prediction", "acc"])
    assert json.loads(json_bodies.encode_request(request)) == {
        "words": [8, 233, 52], "label": 0, "fetch": ["prediction", "acc"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (Form(batch=False, feed=False), '{"prediction":[0.25,0.75]}'),
        (Form(batch=True, feed=False), '{"prediction":[[0.25,0.75]]}'),
        (Form(batch=True, feed=True), '{"result":{"prediction":[[0.25,0.75]]}}'),
    ],
)
def test_an_answer_has_the_form_of_its_request(form: Form, text: str) -> None:
    reply = Reply({"prediction": np.array([[0.25, 0.75]], np.float32)})
    assert json_bodies.encode_reply(reply, form) == text.encode()


@pytest.mark.parametrize("words", [["good", "bad"], [[1], []]])
def test_a_list_of_samples_is_a_batch(words: list[Any]) -> None:
    request, form = json_bodies.decode_request(body(words=words, label=[0, 1]))
    assert (request.samples, form.batch) == (2, True)
    assert request.feed["label"].values.tolist() == [0, 1]


MALFORMED = [
    b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"{}", b'{"words": [NaN], "fetch": ["prediction"]}',
    b'{"words": [Infinity], "fetch": []}', b'{"words": [1e400], "fetch": []}', b"[" * 100_000, b'{"words": [1]}',
    b'{"words": "\xff", "fetch": ["prediction"]}', b'{"words": "\\ud800", "fetch": ["prediction"]}',
    b'{"words": [1], "fetch": "prediction"}', b'{"words": [1], "fetch": [1]}', b'{"words": [1], "fetch": ["a"]} x',
    b'{"feed": {}, "fetch": ["a"]}', b'{"feed": [1], "fetch": ["a"]}', b'{"feed": [{}], "words": 1, "fetch": ["a"]}',
]  # fmt: skip


@pytest.mark.parametrize("malformed", MALFORMED, ids=lambda malformed: repr(malformed[:24]))
def test_what_has_not_the_form_of_a_prediction_is_malformed(malformed: bytes) -> None:
    with pytest.raises(MalformedBody):
        json_bodies.decode_request(malformed)


@pytest.mark.parametrize("depth", [5_000, 100_000])
def test_deep_nesting_is_refused_however_deep_the_interpreter_reads(depth: int) -> None:
    with pytest.raises(BadRequest):
        json_bodies.decode_request(b'{"words": ' + b"[" * depth + b"]" * depth + b', "fetch": ["prediction"]}')


IMPOSSIBLE: list[dict[str, Any]] = [
    {"words": [1.5]}, {"words": [1.0]}, {"words": [True]}, {"words": [1, False]}, {"words": True}, {"words": None},
    {"words": [None]}, {"words": {"a": 1}}, {"words": [{}]}, {"words": [1, "a"]}, {"words": ["a", 1]},
    {"words": [[1], "a"]}, {"words": [[1], [[2]]]}, {"words": [[[1, 2], [3, 4]]]}, {"words": [1, [2]]},
    {"words": [1 << 64]}, {"words": [1, (1 << 64) - 1]}, {"words": [-1, 1 << 63]}, {"words": [1], "label": True},
    {"words": [[1], [2]], "label": [0]}, {"words": [[1], [2]], "label": 0},
    {"words": [1], "fetch": []}, {"feed": []}, {"feed": [{"words": [1]}, {"label": 1}]}, {"feed": [{"words": [True]}]},
]  # fmt: skip


@pytest.mark.parametrize("members", IMPOSSIBLE, ids=str)
def test_values_that_cannot_be_predicted_are_refused_but_not_as_malformed(members: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        json_bodies.decode_request(body(**members))
    assert not isinstance(caught.value, MalformedBody)


def test_the_last_of_duplicate_keys_counts() -> None:
    request, _ = json_bodies.decode_request(b'{"words": [1], "words": [2, 3], "fetch": ["prediction"]}')
    assert request.feed["words"].values.tolist() == [2, 3]


JSONISH = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)
MEMBERS = st.dictionaries(st.sampled_from(["words", "label", "feed", "fetch", "result", "prediction", "code"]), JSONISH)


@given(st.one_of(st.binary(max_size=60), MEMBERS.map(lambda members: body(**members).replace(b"Infinity", b"1"))))
def test_any_bytes_raise_nothing_else(data: bytes) -> None:
    json_bodies.decode_problem(data)
    for read in (json_bodies.decode_request, lambda given: json_bodies.decode_reply(given, 1)):
        try:
            read(data)
        except (BadRequest, RemoteFailure):
            continue


@pytest.mark.parametrize(
    "garbage",
    [
        b"", b"null", b"[1]", b"<html>", b"\xff", b"[" * 100_000, b'{"prediction": ["a"]}', b'{"prediction": {"a": 1}}',
        b'{"prediction": [[1], [1, 2]]}', b'{"prediction": [1' + b"0" * 400 + b"]}", b'{"prediction": [1e39]}',
    ],
    ids=lambda garbage: repr(garbage[:24]),
)  # fmt: skip
def test_an_answer_that_is_none_is_a_remote_failure(garbage: bytes) -> None:
    with pytest.raises(RemoteFailure):
        json_bodies.decode_reply(garbage, 1)


@pytest.mark.parametrize("values", ["0.5", "[]", "[[0.5, 0.5]]", "[[1], [2], [3]]"])
def test_an_answer_of_another_number_of_samples_is_a_remote_failure(values: str) -> None:
    with pytest.raises(RemoteFailure, match="does not hold 2 samples"):
        json_bodies.decode_reply(f'{{"prediction": {values}}}'.encode(), 2)


def test_a_problem_is_read_whatever_it_is() -> None:
    problem = json_bodies.encode_problem(500, "Internal Server Error", "why", "internal")
    assert json_bodies.decode_problem(problem) == ("internal", "why")
    assert json_bodies.decode_problem(b'{"title": "Bad Gateway"}') == (None, "Bad Gateway")
    assert json_bodies.decode_problem(b'{"code": [1], "detail": "x"}') == (None, "x")
    assert json_bodies.decode_problem(b"<h1>no</h1>\n") == (None, "<h1>no</h1>")
    assert json_bodies.decode_problem(b'{"message": "busy"}') == (None, '{"message": "busy"}')  # a gateway's own form
    assert json_bodies.decode_problem(b"") == (None, "")
    assert json_bodies.decode_problem(b"[" * 100_000)[0] is None


def test_a_fault_of_the_server_keeps_its_words_to_itself() -> None:
    code, words = json_bodies.code_of(ZeroDivisionError("secret")), words_of(ZeroDivisionError("secret"))
    assert (code, json_bodies.status_of(ZeroDivisionError())) == ("internal", 500)
    assert "secret" not in words


STAMPS = st.integers(0, 1 << 62)


@given(st.lists(st.tuples(st.sampled_from(["queue", "op0"]), STAMPS, st.integers(0, 1 << 40)), max_size=5))
def test_stages_survive_the_header(entries: list[tuple[str, int, int]]) -> None:
    stages = [Stage(name, start, start + length) for name, start, length in entries]
    assert json_bodies.parse_timing(json_bodies.format_timing(stages)) == (stages, CLOCK_ID)


def test_what_others_say_of_their_time_is_skipped() -> None:
    assert json_bodies.parse_timing('cdn;dur=3.1, miss, queue;dur=1;start=5, clock;desc="x"') == (
        [Stage("queue", 5, 1_000_005)],
        "x",
    )
    assert json_bodies.parse_timing("") == ([], "")


@pytest.mark.parametrize("entry", ["a;dur=x;start=1", "a;dur=1;start=x", "a;dur=inf;start=1", "a;dur=nan;start=1"])
def test_a_header_that_cannot_be_read_is_a_remote_failure(entry: str) -> None:
    with pytest.raises(RemoteFailure, match="Server-Timing"):
        json_bodies.parse_timing(entry)


def test_a_dense_tensor_is_sent_as_rows() -> None:
    request = Request({"words": Tensor(np.array([[1, 2], [3, 4]]))}, ("prediction",), 2)
    assert json.loads(json_bodies.encode_request(request))["words"] == [[1, 2], [3, 4]]
