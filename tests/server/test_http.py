"""The HTTP service as any client sees it: statuses, forms, problem documents, health, and the stages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import http_kit as http
import numpy as np
import pytest
import rpc_kit as kit
from waiting import wait_until

import imdb_serving
from imdb_serving.clients.connect import connect
from imdb_serving.clients.http import CurlClient, HttpClient
from imdb_serving.server_process import ServerProcess
from imdb_serving.text.reviews import Reviews, Vocabulary

FETCH = ["prediction", "acc", "cost"]


@pytest.fixture(scope="module")
def null_http() -> Iterator[str]:
    with http.server("--engine", "none", "--server-threads", "2") as server:
        yield server.endpoint


@pytest.fixture(scope="module")
def paddle_http(bundle: Path) -> Iterator[ServerProcess]:
    with http.server(str(bundle), "--server-threads", "2") as server:
        yield server


def body(**members: Any) -> bytes:
    return json.dumps({"fetch": ["prediction"], **members}).encode()


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"words": [1, 2]}, {"prediction": [0.5, 0.5]}),
        ({"words": []}, {"prediction": [0.5, 0.5]}),
        ({"words": [[1], [2, 3]]}, {"prediction": [[0.5, 0.5]] * 2}),
        ({"feed": [{"words": [1]}]}, {"result": {"prediction": [[0.5, 0.5]]}}),
        ({"words": [1], "label": 1, "fetch": ["acc", "prediction"]}, {"acc": [0.0], "prediction": [0.5, 0.5]}),
    ],
)
def test_an_answer_has_the_form_of_its_request(null_http: str, members: dict[str, Any], expected: Any) -> None:
    response = http.post(null_http, body(**members))
    assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
    assert response.json() == expected
    assert response.headers["Server-Timing"].startswith("queue;dur=")
    assert "Server" not in response.headers


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b""), (400, b"{"), (400, b"[" * 100_000), (400, b'{"words": [NaN], "fetch": ["prediction"]}'),
        (400, b"\xff\xfe"), (400, body(fetch="prediction")), (422, body(words=[1.5])), (422, body(words=[True])),
        (422, body(words=[1 << 63])), (422, body(words=[[[1]]])), (422, body(words=[-1])), (422, body()),
        (422, body(words=[1], fetch=["predicton"])), (422, body(words=[1], fetch=["prediction"] * 2)),
        (422, body(words=[1], label="x")), (422, body(words=[1], label=2)), (422, body(words=[1], other=[1])),
        (422, body(words=[1], fetch=["acc"])), (422, body(words="text, but this engine has no vocabulary")),
        (422, body(words=[1], **{"n" * 300: [1]})), (422, body(words=[1], fetch=["acc"] * 70)),
        (422, body(words=[0] * ((1 << 20) + 1))),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_request_that_cannot_be_answered_is_told_why(null_http: str, status: int, data: bytes) -> None:
    assert http.assert_problem(http.post(null_http, data), status, "bad_request")


def test_a_misspelt_name_is_corrected(null_http: str) -> None:
    response = http.post(null_http, body(words=[1], fetch=["predicton"]))
    assert "did you mean 'prediction'" in http.assert_problem(response, 422, "bad_request")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_content_type_is_refused(null_http: str, kind: str) -> None:
    assert "application/json" in http.assert_problem(http.post(null_http, Content_Type=kind), 415, "bad_request")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", "86401", ""])
def test_a_timeout_that_is_no_time_is_refused(null_http: str, seconds: str) -> None:
    detail = http.assert_problem(http.post(null_http, X_Request_Timeout=seconds), 400, "bad_request")
    assert "X-Request-Timeout" in detail


@pytest.mark.parametrize("path", ["/nothing", http.PREDICTION + "/", "/PaddleServing//v1.0/prediction", "/%ff", "/.."])
def test_an_unknown_path_is_not_found(null_http: str, path: str) -> None:
    http.assert_problem(http.ask(null_http, "POST", path, http.BODY, Content_Type=http.JSON), 404, "bad_request")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", http.PREDICTION, "POST"), ("PUT", http.PREDICTION, "POST"), ("DELETE", "/", "GET"),
     ("POST", "/health/live", "GET"), ("PROPFIND", "/health/ready", "GET")],
)  # fmt: skip
def test_a_wrong_method_is_told_the_right_one(null_http: str, method: str, path: str, allowed: str) -> None:
    response = http.ask(null_http, method, path)
    http.assert_problem(response, 405, "bad_request")
    assert allowed in response.headers["Allow"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(null_http: str) -> None:
    said = http.converse(null_http, http.message(b"").replace(b"Length: 0", b"Length: 99999999"))
    assert http.status_of(said) == 413
    assert b"application/problem+json" in said
    for client in (HttpClient(null_http, timeout=10), CurlClient(null_http, timeout=10)):
        with client, pytest.raises(imdb_serving.errors.BadRequest, match="send smaller batches"):
            client.predict_batch([{"words": [1 << 40] * 100_000}] * 20)


def test_health_tells_who_the_server_is(null_http: str) -> None:
    assert http.ask(null_http, path="/health/live").json() == {"status": "live"}
    ready = http.ask(null_http, path="/health/ready").json()
    assert ready["status"] == "ready"
    assert (ready["server"]["protocol"], ready["server"]["server_threads"]) == ("imdb-serving-http/1", 2)
    assert ready["server"]["version"] == imdb_serving.__version__


def test_the_page_is_served_and_needs_nothing_from_elsewhere(null_http: str) -> None:
    response = http.ask(null_http)
    page = response.body.decode()
    assert (response.status, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert http.PREDICTION in page
    assert 'src="http' not in page
    assert http.ask(null_http, "HEAD").body == b""


def test_answers_over_http_are_those_over_rpc_bit_for_bit(
    paddle_http: ServerProcess, paddle_server: ServerProcess, bundle: Path, small_reviews: Reviews
) -> None:
    vocabulary = Vocabulary.load(bundle / "serving_client_conf" / "imdb.vocab")
    chosen = [*small_reviews.held_out[:10], *small_reviews.held_out[-2:]]
    texts = [{"words": example.text, "label": example.label} for example in chosen]
    ids = [{**feed, "words": vocabulary.encode(str(feed["words"]))} for feed in texts]
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server.endpoint, 20)) for server in (paddle_server, paddle_http)]
        clients.append(stack.enter_context(connect(paddle_http.endpoint, 20, "curl")))
        for feeds in (texts, ids):
            batches = [client.predict_batch(feeds, FETCH) for client in clients]
            single = [[client.predict(feed, FETCH) for feed in feeds] for client in clients[:2]]
            for over_rpc, *others in (batches, single):
                for over_http in others:
                    assert bits(over_http) == bits(over_rpc)
    assert len({values["prediction"] for values in bits(single[0])}) > 5


def bits(answers: list[dict[str, np.ndarray]]) -> list[dict[str, bytes]]:
    assert all(values.dtype == np.float32 for answer in answers for values in answer.values())
    return [{name: values.tobytes() for name, values in answer.items()} for answer in answers]


@pytest.mark.parametrize("command", ["flask", "flask-gateway", "flask-dev"])
def test_the_stages_of_a_request_are_contiguous_and_in_order(command: str) -> None:
    with http.server("--engine", "none", command=command) as server, HttpClient(server.endpoint, timeout=10) as client:
        for _ in range(20):
            stages = client.call(http.ONE).stages
            assert [stage.name for stage in stages] == http.HTTP_STAGES
            assert all(stage.end_ns >= stage.start_ns for stage in stages)
            assert all(later.start_ns >= sooner.end_ns for sooner, later in pairwise(stages))
            gaps = {later.name for sooner, later in pairwise(stages) if later.start_ns > sooner.end_ns}
            assert gaps <= {"parse", "handover", "op0", "op1", "op2"}


def test_health_is_told_at_once_while_all_workers_are_busy() -> None:
    with http.simulated(900, 2) as server, kit.side_by_side(4) as run:
        busy = [run(http.post, server.endpoint) for _ in range(2)]
        busy.append(run(http.ask, server.endpoint, "POST", http.PREDICTION, http.BODY, Content_Type=http.JSON))
        assert not wait_until(lambda: any(answer.done() for answer in busy), 0.3)
        for path in ("/health/live", "/health/ready", "/", "/health/ready"):
            assert http.ask(server.endpoint, path=path).status == 200
        assert not any(answer.done() for answer in busy)
        assert [answer.result(10).status for answer in busy] == [200] * 3
