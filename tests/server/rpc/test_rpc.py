"""Clients and a real server: the right answers, and typed errors when there are none."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import rpc_kit as kit

import imdb_serving
from imdb_serving.clients.connect import connect
from imdb_serving.errors import BadRequest, RequestTimeout, ServerStartError, ServerUnavailable
from imdb_serving.messages import Request, ServerInfo, Tensor
from imdb_serving.server.rpc.service import rpc_server
from imdb_serving.server_process import ServerProcess
from imdb_serving.text.reviews import Reviews, Vocabulary

FETCH = ["prediction", "acc", "cost"]


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def test_hello_tells_who_the_server_is(null_server: ServerProcess) -> None:
    with connect(null_server.endpoint, timeout=10) as client:
        info = client.hello()
    assert (info.protocol, info.version) == ("imdb-serving/1", imdb_serving.__version__)
    assert (info.engine, info.net, info.worker_kind, info.server_threads) == ("none", "", "thread", 2)
    assert (info.feed, info.fetch) == (("words", "label"), ("prediction", "acc", "cost", "class"))
    assert (info.pid, info.max_message_bytes) == (null_server.pid, 16 << 20)


def test_predict_returns_one_array_a_fetch_name(null_server: ServerProcess) -> None:
    with connect(null_server.endpoint, timeout=10) as client:
        answer = client.predict({"words": [1, 2], "label": 0}, FETCH)
    assert {name: values.shape for name, values in answer.items()} == {"prediction": (2,), "acc": (1,), "cost": (1,)}
    assert answer["prediction"].tolist() == [0.5, 0.5]
    assert answer["cost"] == pytest.approx(np.log(2))


def test_the_stages_of_a_request_are_seamless_but_for_the_hand_over(null_server: ServerProcess) -> None:
    request = Request({"words": Tensor(np.array([1, 2]), (2,))}, ("prediction",), 1)
    with connect(null_server.endpoint, timeout=10) as client:
        stages = client.call(request).stages
    assert [stage.name for stage in stages] == ["encode", "send", "queue", "op0", "op1", "op2", "reply", "decode"]
    assert all(stage.end_ns >= stage.start_ns for stage in stages)
    assert [stage.start_ns for stage in stages] == sorted(stage.start_ns for stage in stages)


def texts_of(reviews: Reviews) -> list[tuple[str, int]]:
    chosen = [*reviews.held_out[:12], *reviews.held_out[-2:]]
    return [(example.text, example.label) for example in chosen]


def test_a_batch_is_answered_as_its_samples_are(paddle_server: ServerProcess, small_reviews: Reviews) -> None:
    feeds = [{"words": text, "label": label} for text, label in texts_of(small_reviews)]
    assert "" in {feed["words"] for feed in feeds}
    with connect(paddle_server.endpoint, timeout=20) as client:
        alone = [client.predict(feed, FETCH) for feed in feeds]
        together = client.predict_batch(feeds, FETCH)
    assert len(together) == len(alone)
    for one, other in zip(alone, together, strict=True):
        for name in FETCH:
            np.testing.assert_allclose(other[name], one[name], rtol=0, atol=5e-7)
    assert len({round(float(answer["prediction"][1]), 4) for answer in alone}) > 5


def test_text_is_answered_as_its_ids_are(paddle_server: ServerProcess, bundle: Path, small_reviews: Reviews) -> None:
    vocabulary = Vocabulary.load(bundle / "serving_client_conf" / "imdb.vocab")
    texts = [text for text, _ in texts_of(small_reviews)]
    with connect(paddle_server.endpoint, timeout=20) as client:
        by_text = client.predict_batch([{"words": text} for text in texts])
        by_ids = client.predict_batch([{"words": vocabulary.encode(text)} for text in texts])
        with pytest.raises(BadRequest, match=f"word id {len(vocabulary) + 2} is outside"):
            client.predict({"words": [len(vocabulary) + 2]})
    np.testing.assert_array_equal(
        [answer["prediction"] for answer in by_text], [answer["prediction"] for answer in by_ids]
    )


def test_acc_and_cost_agree_with_the_prediction(paddle_server: ServerProcess, small_reviews: Reviews) -> None:
    with connect(paddle_server.endpoint, timeout=20) as client:
        for text, label in texts_of(small_reviews):
            answer = client.predict({"words": text, "label": label}, FETCH)
            assert answer["prediction"].sum() == pytest.approx(1, abs=1e-5)
            assert answer["acc"][0] == (answer["prediction"].argmax() == label)
            assert answer["cost"][0] == pytest.approx(-np.log(answer["prediction"][label]), abs=1e-5)


def test_a_bad_request_is_typed_and_the_client_works_on(null_server: ServerProcess) -> None:
    with connect(null_server.endpoint, timeout=10) as client:
        with pytest.raises(BadRequest, match="did you mean 'prediction'"):
            client.predict(kit.SAMPLE, ["predicton"])
        with pytest.raises(BadRequest, match="cannot read text"):
            client.predict({"words": "good"})
        assert client.predict(kit.SAMPLE)["prediction"].shape == (2,)


@pytest.mark.parametrize(
    ("feeds", "fetch", "message"),
    [
        ([], ["prediction"], "at least one sample"),
        ([kit.SAMPLE], "prediction", "must be a list of names"),
        ([kit.SAMPLE], [], "at least one fetch name"),
        ([kit.SAMPLE, {"words": [1], "label": 0}], ["prediction"], "same feed names"),
        ([{"words": "good"}, {"words": [1]}], ["prediction"], "either texts or word ids"),
        ([{"words": [1.5]}], ["prediction"], "whole numbers or a text"),
        ([{"words": ["a", 1]}], ["prediction"], "whole numbers or a text"),
        ([{"words": [1], "label": [0, 1]}, {"words": [1], "label": []}], ["prediction"], "label"),
        ([{"words": "\ud800"}], ["prediction"], "cannot be sent as UTF-8"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_the_client(
    carrier: kit.Carrier, feeds: list, fetch: list[str], message: str
) -> None:
    with (
        connect(carrier.endpoint(free_port()), timeout=0.2) as client,
        pytest.raises(BadRequest, match=message),
    ):
        client.predict_batch(feeds, fetch)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_no_time_is_refused(carrier: kit.Carrier, timeout: float) -> None:
    with pytest.raises(BadRequest, match="timeout"):
        connect(carrier.endpoint(9), timeout=timeout).close()


@pytest.mark.parametrize(
    "endpoint",
    [
        "nonsense",
        "tcp://127.0.0.1",
        "socket://127.0.0.1",
        "socket://127.0.0.1:99999",
        "socket://:9293",
        "socket://127.0.0.1:x",
        "socket+unix://",
        "socket:9293",
        "tcp://127.0.0.1:99999",
        "tcp://:9292",
        "tcp:/x",
        "ipc://",
        "inproc://x",
        "unix:///tmp/x",
    ],
)
def test_an_endpoint_that_is_none_is_refused_by_client_and_server(endpoint: str) -> None:
    with pytest.raises(BadRequest, match="cannot use the endpoint"):
        connect(endpoint)
    info = ServerInfo("", "0", "none", "", 1, "thread", (), (), 1 << 20, 1)
    with pytest.raises(ServerStartError, match=r"cannot use the endpoint .*: expected .*socket://HOST:PORT"):
        rpc_server(endpoint, None, 1, 0, lambda *_: info).run(lambda _: pytest.fail("it cannot be ready"))


def test_no_server_is_told_in_time_and_the_client_works_once_there_is_one(start_server, carrier: kit.Carrier) -> None:
    port = free_port()
    with connect(carrier.endpoint(port), timeout=0.3) as client:
        for ask in (client.hello, lambda: client.predict(kit.SAMPLE)):
            with pytest.raises(ServerUnavailable, match="imdb-serving serve"):
                ask()
        start_server("--engine", "none", port=port)
        client.timeout = 10
        assert client.hello().engine == "none"


def test_a_server_that_comes_back_is_found_by_the_same_client(start_server) -> None:
    first = start_server("--engine", "none")
    port = urlparse(first.endpoint).port
    with connect(first.endpoint, timeout=10) as client:
        before = client.hello().pid
        first.stop()
        start_server("--engine", "none", port=port)
        assert client.hello().pid != before


def test_a_late_answer_is_not_taken_for_the_next_ones(start_server) -> None:
    server = start_server("--engine", "simulated", "--service-time-ms", "600", "--server-threads", "1")
    with connect(server.endpoint, timeout=0.2) as client:
        with pytest.raises(RequestTimeout, match=r"no reply from .* in 0\.2 s|the deadline passed"):
            client.predict_batch([kit.SAMPLE] * 3)
        client.timeout = 10
        reply = client.call(Request({"words": Tensor(np.array([1, 2]), (1, 1))}, ("prediction",), 2))
        assert reply.outputs["prediction"].shape == (2, 2)
        assert client.hello().engine == "simulated"


def test_a_timeout_comes_when_asked_for(start_server) -> None:
    server = start_server("--engine", "simulated", "--service-time-ms", "60000", "--server-threads", "1")
    with connect(server.endpoint, timeout=0.3) as client:
        start = time.monotonic()
        with pytest.raises(RequestTimeout):
            client.predict(kit.SAMPLE)
        assert time.monotonic() - start >= 0.29
        client.timeout = 5
        assert client.hello().server_threads == 1  # also while the worker is busy


def test_a_request_whose_deadline_passes_in_the_queue_is_not_worked_on(start_server) -> None:
    server = start_server("--engine", "simulated", "--service-time-ms", "400", "--server-threads", "1")
    with kit.raw_socket(server.endpoint) as dealer:
        dealer.send_multipart(kit.raw_message(id=1))
        dealer.send_multipart(kit.raw_message(id=2, deadline_ms=100))
        dealer.send_multipart(kit.raw_message(id=3))
        answers = [kit.read_answer(dealer.recv_multipart()) for _ in range(3)]
    # It is answered as such while the only worker is still busy with the first.
    assert [(answer["id"], answer.get("code")) for answer in answers] == [(2, "timeout"), (1, None), (3, None)]
    assert answers[0]["message"] == "the deadline passed while the request waited for a worker"


def test_a_client_written_from_the_document_alone_is_answered(null_server: ServerProcess) -> None:
    with kit.raw_socket(null_server.endpoint) as opened:
        opened.send_multipart(kit.raw_message(id=77))
        answer = kit.read_answer(opened.recv_multipart())
        opened.send_multipart([kit.VERSION, b"\x82\xa4kind\xa5hello\xa2id\x05"])
        info = kit.read_answer(opened.recv_multipart())
        opened.send_multipart(kit.raw_message(id=78, fetch=["acc"]))
        failure = kit.read_answer(opened.recv_multipart())
    assert (answer["kind"], answer["id"]) == ("answer", 77)
    assert answer["fetch"] == [{"name": "prediction", "dtype": "float32", "shape": [1, 2]}]
    assert struct.unpack("<2f", answer["data"][0]) == (0.5, 0.5)
    assert [name for name, _, _ in answer["stages"]] == ["queue", "op0", "op1", "op2"]
    assert answer["clock"]
    assert (info["kind"], info["id"], info["server"]["protocol"]) == ("info", 5, "imdb-serving/1")
    assert (failure["kind"], failure["id"], failure["code"]) == ("failure", 78, "bad_request")


def test_several_requests_may_be_under_way_on_one_socket(null_server: ServerProcess) -> None:
    with kit.raw_socket(null_server.endpoint) as dealer:
        for number in range(50):
            dealer.send_multipart(kit.raw_message(id=number))
        answers = [kit.read_answer(dealer.recv_multipart()) for _ in range(50)]
    assert {answer["kind"] for answer in answers} == {"answer"}
    assert sorted(answer["id"] for answer in answers) == list(range(50))


@pytest.mark.parametrize(
    ("frames", "number"),
    [
        ([b"imdb-serving/2", *kit.raw_message()[1:]], None),
        ([kit.VERSION], None),
        ([kit.VERSION, b"\xff\xff"], None),
        ([b"x"], None),
        (kit.raw_message(id=9)[:2], 9),
        ([*kit.raw_message(id=9), b"more"], 9),
        (kit.raw_message(id=9, feed=[{**kit.WORDS, "dtype": "int8"}]), 9),
        (kit.raw_message(id=9, samples=2), 9),
        ([*kit.raw_message(id=9, feed=[{**kit.WORDS, "shape": [1, 1 << 32, 1 << 32, 0]}])[:2], b""], 9),
        ([*kit.raw_message(id=9), bytes(9 << 20), bytes(9 << 20)], 9),
    ],
    ids=["version", "no header", "no map", "one frame", "no tensor", "two", "dtype", "samples", "shape", "size"],
)
def test_a_malformed_message_gets_a_bad_request(
    null_server: ServerProcess, carrier: kit.Carrier, frames: list[bytes], number: int | None
) -> None:
    with kit.raw_socket(null_server.endpoint) as opened:
        opened.send_multipart(frames)
        failure = kit.read_answer(opened.recv_multipart())
    if carrier == kit.SOCKET and len(frames) == 5:
        number = None  # refused by its prefix, before the header is read
    assert (failure["kind"], failure["code"], failure["id"]) == ("failure", "bad_request", number)
    assert failure["message"]
