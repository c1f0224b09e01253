"""What a request says is read once: the server, its application and its clients take it for the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import http_kit as http
import numpy as np
import pytest

from imdb_serving.messages import Reply, Request
from imdb_serving.timing import Timeline

SPELLINGS = [
    http.PREDICTION,
    "/" + http.PREDICTION,
    "//" + http.PREDICTION,
    "/%2f" + http.PREDICTION,
    http.PREDICTION.replace("P", "%50"),
    http.PREDICTION.replace("/v1", "%2Fv1"),
    "http://elsewhere" + http.PREDICTION,
    "http://elsewhere/" + http.PREDICTION,
    http.PREDICTION + "?a=b",
    http.PREDICTION + "#part",
]
OTHERS = [
    http.PREDICTION.lower(), http.PREDICTION + "/", http.PREDICTION.replace("/v1", "//v1"), "/." + http.PREDICTION,
    http.PREDICTION.replace("Serving", "Serving/../PaddleServing"), "%2F" + http.PREDICTION[1:], http.PREDICTION + ";x",
    http.PREDICTION + "%00", http.PREDICTION.replace("v1", "v%ef%bc%91"),
]  # fmt: skip


class Naming:
    """A handler that notes which threads ask it, and how long they give it."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.deadlines: list[int] = []

    def __call__(self, request: Request, timeline: Timeline) -> Reply:
        self.threads.append(threading.current_thread().name)
        self.deadlines.append(timeline.deadline_ns)
        return Reply({"prediction": np.array([[0.25, 0.75]], np.float32)}, timeline.stages)


def spelt(target: str, method: str = "POST") -> bytes:
    return http.message(method=method).replace(http.PREDICTION.encode(), target.encode(), 1)


@pytest.mark.parametrize("target", [*SPELLINGS, *OTHERS])
def test_every_prediction_goes_the_ordinary_way(target: str) -> None:
    """No spelling is a prediction for the application and something else for the server, past its queue and limits."""
    handler = Naming()
    with http.own_server(handler) as server:
        said = http.converse(server.url, spelt(target))
    answered = http.status_of(said) == 200
    assert answered == (target in SPELLINGS), said
    assert bool(handler.threads) == answered
    assert "http-helper" not in handler.threads


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "post", "Post", "OPTIONS"])
def test_only_a_post_predicts(method: str) -> None:
    handler = Naming()
    with http.own_server(handler) as server:
        http.converse(server.url, spelt("/" + http.PREDICTION, method))
    assert not handler.threads


def test_a_timeout_given_twice_is_refused_and_none_of_the_two_is_taken() -> None:
    handler = Naming()
    with http.own_server(handler) as server:
        twice = http.message(head="X-Request-Timeout: 5\r\nX-Request-Timeout: 5\r\n")
        assert http.status_of(http.converse(server.url, twice)) == 400
        underscored = http.message(head="X_Request_Timeout: 0.001\r\n")
        assert http.status_of(http.converse(server.url, underscored)) == 200
    assert len(handler.deadlines) == 1


def test_a_trailer_is_no_header(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    head = f"POST {http.PREDICTION} HTTP/1.1\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\n"
    chunk = f"{len(http.BODY):x}\r\n{http.BODY.decode()}\r\n0\r\n%s\r\n"
    kind, shows = f"Content-Type: {http.JSON}\r\n", f"Authorization: Bearer {token.read_text()}\r\n"
    slow = "X-Request-Timeout: 0.0000001\r\n"
    with http.server("--engine", "none", "--token-file", str(token)) as server:
        for headers, trailers, status in [
            (kind + shows, "", 200), (kind, shows, 401), (shows, kind, 415), (kind + shows, slow, 200),
        ]:  # fmt: skip
            said = http.converse(server.endpoint, ((head % headers) + (chunk % trailers)).encode())
            assert http.status_of(said) == status, (headers, trailers)


@pytest.fixture(scope="module", params=["flask", "flask-dev"])
def null_http(request: pytest.FixtureRequest) -> Iterator[str]:
    with http.server("--engine", "none", command=request.param) as server:
        yield server.endpoint


@pytest.mark.parametrize("path", ["/", "/health/live", "/openapi.json", "/nothing"])
def test_head_says_what_get_would(null_http: str, path: str) -> None:
    get, head = http.ask(null_http, path=path), http.ask(null_http, "HEAD", path)
    assert (head.status, head.body) == (get.status, b"")
    assert int(head.headers["Content-Length"]) == len(get.body) > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("Content-Encoding", "gzip"), ("Content-Encoding", "identity, br"),
     ("Content-Type", "application/json; charset=utf-16")],
)  # fmt: skip
def test_a_header_that_changes_what_the_body_means_is_refused(null_http: str, name: str, value: str) -> None:
    response = http.post(null_http, **{name.replace("-", "_"): value})
    assert f"{name}: {value}" in http.assert_problem(response, 415, "bad_request")
    assert response.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("name", "value"),
    [("Content-Encoding", "identity"), ("Content-Encoding", ""), ("Content-Type", "application/json; charset=UTF-8")],
)  # fmt: skip
def test_one_that_does_not_is_taken(null_http: str, name: str, value: str) -> None:
    assert http.post(null_http, **{name.replace("-", "_"): value}).status == 200


def test_a_body_may_begin_with_a_byte_order_mark(null_http: str) -> None:
    assert http.post(null_http, b"\xef\xbb\xbf" + http.BODY).status == 200
