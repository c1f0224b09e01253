"""Limits on messages, batches, reviews and answers: options, each stated by the error of what is beyond it."""

from __future__ import annotations

import http.client
import json

import http_kit
import load_kit as load
import numpy as np
import pytest
import rpc_kit as kit

from imdb_serving.clients.connect import connect
from imdb_serving.errors import BadRequest, RemoteFailure, ServerUnavailable
from imdb_serving.messages import Reply, Request
from imdb_serving.server_process import ServerProcess
from imdb_serving.timing import Timeline

LIMITS = ["--max-message-bytes", "200000", "--max-samples", "3", "--max-review-words", "1000"]


@pytest.mark.parametrize("mode", [*load.MODES, "flask-gateway"])
def test_what_is_beyond_a_limit_is_refused_with_the_limit(mode: str) -> None:
    arguments = ["--engine", "none", "--server-threads", "1", *LIMITS]
    with ServerProcess.of_mode(mode, arguments) as server, connect(server.endpoint, 20) as client:
        assert client.hello().max_message_bytes == 200_000
        assert len(client.predict_batch([{"words": [1] * 1000}] * 3)) == 3
        for feeds, words in (
            ([{"words": [1]}] * 4, "4 samples are more than a request's 3"),
            ([{"words": [1] * 1001}], "a review of 1001 words is longer than 1000"),
            ([{"words": [10_000_000] * 60_000}], "200000"),
            ([{"words": [10_000_000] * 900_000}], "200000"),  # so large that ZeroMQ would end the connection
        ):
            with pytest.raises(BadRequest, match=words):
                client.predict_batch(feeds)
            assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]


def test_a_body_of_exactly_the_limit_is_taken() -> None:
    with http_kit.server("--engine", "none", "--max-message-bytes", "50000") as server:
        for length, status in ((50_000, 200), (50_001, 413)):
            body = json.dumps({"words": [1], "fetch": ["prediction"]}).encode().ljust(length)
            assert http_kit.post(server.endpoint, body).status == status
            connection = http.client.HTTPConnection(*http_kit.address(server.endpoint), timeout=10)
            headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
            connection.request("POST", http_kit.PREDICTION, iter([body]), headers, encode_chunked=True)
            assert connection.getresponse().status == status
            connection.close()


@pytest.mark.parametrize("scheme", ["tcp", "socket"])
def test_a_message_of_exactly_the_limit_is_taken(scheme: str) -> None:
    piece = kit.in_one_piece(kit.raw_message())
    with ServerProcess(["--engine", "none", "--endpoint", f"{scheme}://127.0.0.1:0",
                        "--max-message-bytes", "1024"]) as server, connect(server.endpoint, 20) as client:  # fmt: skip
        fits = (1024 - len(piece)) // 8
        for words, taken in ((fits - 20, True), (fits + 20, False)):
            if taken:
                client.predict({"words": [1] * words})
            else:
                with pytest.raises(BadRequest, match="at most 1024"):
                    client.predict({"words": [1] * words})


def large(request: Request, timeline: Timeline) -> Reply:
    """An answer of 160 KB for each sample, 80 KB as JSON."""
    with timeline.stage("op0"):
        return Reply({"prediction": np.zeros((request.samples, 20_000), np.float64)}, timeline.stages)


@pytest.mark.parametrize(
    ("mode", "http_client"), [("rpc", ""), ("socket", ""), ("flask", "keep-alive"), ("flask", "curl")]
)
def test_a_client_reads_no_more_than_it_was_told(mode: str, http_client: str) -> None:
    with load.in_process(mode, large) as endpoint:
        with connect(endpoint, 5, http_client or "keep-alive", max_answer_bytes=50_000) as client:
            with pytest.raises((RemoteFailure, ServerUnavailable)) as caught:
                client.predict(kit.SAMPLE)
            if mode != "rpc":  # ZeroMQ ends the connection, and does not say why
                assert "50000" in str(caught.value)
        with connect(endpoint, 5, http_client or "keep-alive") as client:
            assert client.predict(kit.SAMPLE)["prediction"].shape == (20_000,)


@pytest.mark.parametrize("option", ["--max-queue", "--max-message-bytes", "--max-samples", "--max-review-words"])
def test_a_limit_that_is_none_is_refused(option: str) -> None:
    code, errors = kit.serve_and_fail("--engine", "none", option, "-1")
    assert (code, option in errors) == (2, True)
