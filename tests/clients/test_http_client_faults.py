"""The HTTP clients and small servers that misbehave: typed errors, in time, and the same object works on."""

from __future__ import annotations

import socket
import struct
import threading
import time

import http_kit as http
import pytest

from imdb_serving.clients.http import CurlClient, HttpClient
from imdb_serving.errors import BadRequest, RemoteFailure, RequestTimeout, ServerUnavailable, ServingError

CLIENTS = pytest.mark.parametrize("make", [HttpClient, CurlClient])
MakeClient = type[HttpClient] | type[CurlClient]


@CLIENTS
def test_an_answer_that_does_not_come_is_a_timeout_and_the_client_works_on(make: MakeClient) -> None:
    def script(connection: socket.socket, number: int) -> None:
        while http.read_request(connection):
            if number:
                connection.sendall(http.answer())

    with http.fake_server(script) as endpoint, make(endpoint, timeout=0.3) as client:
        assert isinstance(http.failure(client), RequestTimeout)
        client.timeout = 10
        assert client.predict(http.SAMPLE)["prediction"].tolist() == [0.25, 0.75]


@CLIENTS
@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
def test_an_answer_that_drips_is_cut_at_the_deadline(make: MakeClient, start: bytes) -> None:
    ended = threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        http.read_request(connection)
        connection.sendall(start)
        for byte in b"HTTP/1.1 200 OK\r\n" + b"x" * 10_000:
            connection.sendall(bytes([byte]))
            if ended.wait(0.02):
                return

    with http.fake_server(script) as endpoint, make(endpoint, timeout=0.5) as client:
        assert isinstance(http.failure(client), RequestTimeout)
        ended.set()


def test_a_server_that_reads_nothing_does_not_keep_the_client() -> None:
    ended = threading.Event()
    with http.fake_server(lambda connection, number: ended.wait(20) and None) as endpoint:
        with HttpClient(endpoint, timeout=0.5) as client, pytest.raises(RequestTimeout):
            client.predict({"words": list(range(3_000_000))})
        ended.set()


GARBAGE = [
    b"\x00\xff nonsense\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 abc\r\n\r\n",
    http.answer(b"<html>"), http.answer(b'{"prediction": [0.5'), http.answer(b"null"), http.answer(b"[" * 100_000),
    http.answer(b'{"prediction":[1' + b"0" * 400 + b"]}"), http.answer(b'{"hello":[1,2]}'), http.answer(b"{}"),
    http.answer(status="204 No Content"),
    http.answer(status="302 Found", head="Location: /\r\n"), http.answer(b'{"code":["x"]}', "500 Oops"),
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage[-40:]))
def test_garbage_is_a_remote_failure_and_the_client_works_on(garbage: bytes) -> None:
    served = iter([garbage, http.answer(), garbage, http.answer()])

    def script(connection: socket.socket, number: int) -> None:
        while http.read_request(connection):
            connection.sendall(next(served))

    with http.fake_server(script) as endpoint, HttpClient(endpoint, timeout=5) as client:
        for ask in (lambda: client.predict(http.SAMPLE), client.hello):
            with pytest.raises(RemoteFailure):
                ask()
            assert client.predict(http.SAMPLE)["prediction"].tolist() == [0.25, 0.75]


def test_stamps_that_cannot_be_read_are_told_to_who_asks_for_them() -> None:
    def script(connection: socket.socket, number: int) -> None:
        while http.read_request(connection):
            connection.sendall(http.answer(head="Server-Timing: queue;dur=x;start=1\r\n"))

    with http.fake_server(script) as endpoint, HttpClient(endpoint, timeout=5) as client:
        reply = client.call(http.ONE)
        assert reply.outputs["prediction"].shape == (1, 2)
        with pytest.raises(RemoteFailure, match="Server-Timing header cannot be read"):
            _ = reply.stages


@pytest.mark.parametrize("garbage", [GARBAGE[0], GARBAGE[3], GARBAGE[8]])
def test_curl_finds_garbage_to_be_a_remote_failure_too(garbage: bytes) -> None:
    def script(connection: socket.socket, number: int) -> None:
        http.read_request(connection)
        connection.sendall(garbage)

    with http.fake_server(script) as endpoint, CurlClient(endpoint, timeout=5) as client:
        assert isinstance(http.failure(client), RemoteFailure)


@CLIENTS
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        ("503 Busy", b"<h1>busy</h1>", ServerUnavailable), ("504 Late", b"", RequestTimeout),
        ("500 Oops", b"", RemoteFailure), ("418 Teapot", b"tea", BadRequest), ("502 Bad", b"[]", RemoteFailure),
        ("500 Oops", b'{"code":"timeout","detail":"late"}', RequestTimeout),
        ("503 Busy", b'{"code":7}', ServerUnavailable),
    ],
)  # fmt: skip
def test_a_status_decides_the_error_where_there_is_no_code(
    make: MakeClient, status: str, body: bytes, kind: type[ServingError]
) -> None:
    def script(connection: socket.socket, number: int) -> None:
        while http.read_request(connection):
            connection.sendall(http.answer(body, status))

    with http.fake_server(script) as endpoint, make(endpoint, timeout=5) as client:
        assert type(http.failure(client)) is kind


def test_a_connection_that_was_closed_while_idle_is_made_anew_unnoticed() -> None:
    asked: list[int] = []

    def script(connection: socket.socket, number: int) -> None:
        if http.read_request(connection):
            asked.append(number)
            connection.sendall(http.answer())

    with http.fake_server(script) as endpoint, HttpClient(endpoint, timeout=5) as client:
        for _ in range(5):
            assert client.predict(http.SAMPLE)["prediction"].tolist() == [0.25, 0.75]
    assert asked == [0, 1, 2, 3, 4]


def test_a_connection_closed_at_the_next_request_is_made_anew_once() -> None:
    def script(connection: socket.socket, number: int) -> None:
        http.read_request(connection)
        if number < 3:
            connection.sendall(http.answer())
            http.read_request(connection)

    with http.fake_server(script) as endpoint, HttpClient(endpoint, timeout=5) as client:
        for _ in range(3):
            client.predict(http.SAMPLE)
        for _ in range(2):
            with pytest.raises(ServerUnavailable, match="closed the connection without an answer"):
                client.predict(http.SAMPLE)


@CLIENTS
def test_half_an_answer_is_an_error_of_its_own(make: MakeClient) -> None:
    def script(connection: socket.socket, number: int) -> None:
        http.read_request(connection)
        connection.sendall(http.answer()[:-3])

    with http.fake_server(script) as endpoint, make(endpoint, timeout=5) as client:
        assert isinstance(http.failure(client), ServerUnavailable)


@CLIENTS
@pytest.mark.parametrize(
    "whole",
    [
        b"HTTP/1.1 103 Early Hints\r\nServer-Timing: x;dur=1;start=1\r\n\r\n" + http.answer(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'5\r\n{"pre\r\n15\r\ndiction":[0.25,0.75]}\r\n0\r\n\r\n',
        http.answer(head="Connection: close\r\n"), http.answer().replace(b"HTTP/1.1", b"HTTP/1.0"),
        b'HTTP/1.0 200 OK\r\n\r\n{"prediction":[0.25,0.75]}',
        b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"prediction":[0.25,0.75]}',
        b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{"prediction":[0.25,0.75]}',
    ],
)  # fmt: skip
def test_answers_of_every_lawful_form_are_read(make: MakeClient, whole: bytes) -> None:
    def script(connection: socket.socket, number: int) -> None:
        while http.read_request(connection):
            for start in range(0, len(whole), 7):
                connection.sendall(whole[start : start + 7])
                time.sleep(0.001)
            if b"Content-Length" not in whole and b"chunked" not in whole:
                return  # the end of the connection is that of the answer

    with http.fake_server(script) as endpoint, make(endpoint, timeout=5) as client:
        for _ in range(2):
            reply = client.call(http.ONE)
            assert reply.outputs["prediction"].tolist() == [[0.25, 0.75]]
            assert [stage.name for stage in reply.stages] == ["encode", "send", "decode"]


@CLIENTS
def test_the_words_of_a_proxy_are_passed_on(make: MakeClient) -> None:
    def script(connection: socket.socket, number: int) -> None:
        http.read_request(connection)
        connection.sendall(b"HTTP/1.0 503 Service Unavailable\r\n\r\nno server is available to handle this request")

    with http.fake_server(script) as endpoint, make(endpoint, timeout=5) as client:
        failure = http.failure(client)
        assert isinstance(failure, ServerUnavailable)
        assert "no server is available" in str(failure)


def test_an_answer_whose_connection_was_reset_is_not_whole() -> None:
    def script(connection: socket.socket, number: int) -> None:
        http.read_request(connection)
        connection.sendall(b'HTTP/1.0 200 OK\r\n\r\n{"prediction":[0.25,0.75]}')
        time.sleep(0.2)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with http.fake_server(script) as endpoint, HttpClient(endpoint, timeout=5) as client:
        assert isinstance(http.failure(client), ServerUnavailable)


@pytest.mark.parametrize("together", [True, False])
def test_words_that_nobody_asked_for_are_not_taken_for_the_next_answer(together: bool) -> None:
    def script(connection: socket.socket, number: int) -> None:
        if not http.read_request(connection):
            return
        right, stale = http.answer(f'{{"prediction":[{number},0]}}'.encode()), http.answer(b'{"prediction":[99,99]}')
        connection.sendall(right + stale if together else right)
        if not together:
            connection.sendall(stale)
        http.read_request(connection)

    with http.fake_server(script) as endpoint, HttpClient(endpoint, timeout=5) as client:
        for number in range(3):
            assert client.predict(http.SAMPLE)["prediction"].tolist() == [number, 0]
            time.sleep(0.05)


def test_an_interrupted_request_leaves_no_answer_for_the_next_one() -> None:
    def script(connection: socket.socket, number: int) -> None:
        while http.read_request(connection):
            connection.sendall(http.answer(f'{{"prediction":[{number},0]}}'.encode()))

    def interrupt(_count: int) -> bytes:
        raise KeyboardInterrupt

    with http.fake_server(script) as endpoint, HttpClient(endpoint, timeout=5) as client:
        assert client.predict(http.SAMPLE)["prediction"].tolist() == [0, 0]
        assert client._connection._socket is not None
        client._connection._socket.recv = interrupt  # the request is sent, its answer not yet read
        with pytest.raises(KeyboardInterrupt):
            client.predict(http.SAMPLE)
        assert client.predict(http.SAMPLE)["prediction"].tolist() == [1, 0]
