"""Whatever arrives at the HTTP port: the right status or an end, and the others go on."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import http_kit as http
import pytest

from imdb_serving.clients.http import HttpClient


@pytest.fixture(scope="module")
def null_http() -> Iterator[str]:
    with http.server("--engine", "none", "--server-threads", "2") as server:
        yield server.endpoint


GOOD = http.message(head="Connection: close\r\n")
CHUNKED = http.message(b"", "Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 0\r\n", b"")
CHUNKS = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (9, http.BODY[:9], len(http.BODY) - 9, http.BODY[9:])


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (GOOD, 200), (b"\r\n\r\n" + GOOD, 200), (CHUNKED + CHUNKS, 200), (http.message(version="1.0"), 200),
        (http.message(method="post"), 501), (http.message(version="9.9x"), 400), (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (http.message().replace(b"Content-Length: ", b"Content-Length: +"), 400), (CHUNKED + b"zz\r\n", 400),
        (http.message(head="Content-Length: 3\r\n"), 400), (http.message(head="A: " + "x" * 300_000 + "\r\n"), 431),
        (http.message(head="Content-Length: " + "9" * 5000 + "\r\n"), 400), (b"GET http://[::1/ HTTP/1.1\r\n\r\n", 400),
        (http.message(b"", "Content-Length: " + "9" * 5000 + "\r\n").replace(b"Content-Length: 0\r\n", b""), 400),
        (http.message(head="Transfer-Encoding: gzip\r\n"), 400), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (http.message().replace(b"Length: ", b"Length: 1"), 0), (http.message()[:-1], 0), (b"POST /Pad", 0), (b"", 0),
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
def test_every_message_gets_the_right_status_or_an_end(null_http: str, data: bytes, status: int) -> None:
    said = http.converse(null_http, data)
    assert (http.status_of(said) if said else 0) == status
    assert b"Traceback" not in said


def test_a_body_shorter_than_its_message_leaves_a_bad_request_behind(null_http: str) -> None:
    assert http.converse(null_http, http.message() + b"more\r\n\r\n").count(b"HTTP/1.") == 2


def test_expect_is_answered_with_continue(null_http: str) -> None:
    head, _, data = http.message(head="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    with http.opened(null_http) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.sendall(data)
        assert json.loads(http.receive_answer(connection)) == {"prediction": [0.5, 0.5]}


def test_pipelined_requests_are_answered_in_order(null_http: str) -> None:
    bodies = [json.dumps({"words": [[1]] * count, "fetch": ["prediction"]}).encode() for count in (1, 2, 3)]
    said = http.converse(null_http, b"".join(map(http.message, bodies)) + GOOD)
    answers = [json.loads(part.split(b"HTTP/1.1")[0]) for part in said.split(b"\r\n\r\n")[1:]]
    assert [len(answer["prediction"]) for answer in answers] == [1, 2, 3, 2]


def test_http_1_0_keeps_the_connection_only_when_asked(null_http: str) -> None:
    with http.opened(null_http) as connection:
        for _ in range(2):
            connection.sendall(http.message(version="1.0", head="Connection: keep-alive\r\n"))
            http.receive_answer(connection)
        connection.sendall(http.message(version="1.0"))
        http.receive_answer(connection)
        assert connection.recv(1) == b""


def test_slow_and_idle_and_mad_clients_hold_up_nobody(null_http: str) -> None:
    chance = random.Random(7)
    with ExitStack() as stack, HttpClient(null_http, timeout=10) as client:
        slow = [stack.enter_context(http.opened(null_http)) for _ in range(8)]
        idle = [stack.enter_context(http.opened(null_http)) for _ in range(300)]
        for number, byte in enumerate(http.BODY):
            for connection in slow:  # each has its head, and a body that comes byte by byte
                connection.sendall(bytes([byte]) if number else http.message()[: -len(http.BODY)] + bytes([byte]))
            noise = chance.randbytes(chance.choice([1, 20, 3000])) + b"\r\n\r\n"
            http.converse(null_http, noise if number % 2 else http.message()[: -len(noise)] + noise)
            assert client.predict(http.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
        for connection in slow:
            assert json.loads(http.receive_answer(connection)) == {"prediction": [0.5, 0.5]}
        idle[-1].sendall(http.message())
        assert http.receive_answer(idle[-1])


def test_a_client_that_leaves_before_its_answer_does_no_harm(null_http: str) -> None:
    for _ in range(20):
        with http.opened(null_http) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.sendall(http.message())
    assert http.post(null_http).status == 200
