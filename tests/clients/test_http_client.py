"""The HTTP clients and a real server: one connection kept, typed errors, and the same object works on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import http_kit as http
import pytest

from imdb_serving.clients.connect import connect
from imdb_serving.clients.http import CurlClient, HttpClient
from imdb_serving.clients.zeromq import RpcClient
from imdb_serving.errors import BadRequest, ServerUnavailable
from imdb_serving.server_process import ServerProcess

CLIENTS = pytest.mark.parametrize("make", [HttpClient, CurlClient])
MakeClient = type[HttpClient] | type[CurlClient]


@pytest.fixture(scope="module")
def null_http() -> Iterator[ServerProcess]:
    with http.server("--engine", "none", "--server-threads", "2") as server:
        yield server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


@CLIENTS
def test_a_client_predicts_and_says_hello(null_http: ServerProcess, make: MakeClient) -> None:
    with make(null_http.endpoint, timeout=10) as client:
        assert client.predict({"words": [1], "label": 0}, ["acc", "prediction"])["prediction"].tolist() == [0.5, 0.5]
        assert client.predict_batch([http.SAMPLE] * 3)[2]["prediction"].tolist() == [0.5, 0.5]
        assert (client.hello().pid, client.hello().engine) == (null_http.pid, "none")


@CLIENTS
def test_a_bad_request_is_typed_and_the_client_works_on(null_http: ServerProcess, make: MakeClient) -> None:
    with make(null_http.endpoint, timeout=10) as client:
        for _ in range(2):
            with pytest.raises(BadRequest, match="did you mean 'prediction'"):
                client.predict(http.SAMPLE, ["predicton"])
            assert client.predict(http.SAMPLE)["prediction"].shape == (2,)


@CLIENTS
def test_a_path_before_the_service_is_kept(null_http: ServerProcess, make: MakeClient) -> None:
    with (
        make(null_http.endpoint + "/behind/", timeout=10) as client,
        pytest.raises(BadRequest, match="there is no /behind/P"),
    ):
        client.predict(http.SAMPLE)


@pytest.mark.parametrize(
    ("endpoint", "kind", "made"),
    [("tcp://127.0.0.1:9", "keep-alive", RpcClient), ("http://[::1]:9", "keep-alive", HttpClient),
     ("http://localhost", "curl", CurlClient)],
)  # fmt: skip
def test_an_endpoint_decides_the_client(endpoint: str, kind: str, made: type) -> None:
    with connect(endpoint, 1, kind) as client:
        assert type(client) is made


@pytest.mark.parametrize(
    "endpoint",
    ["nonsense", "https://h:1", "http://", "http://:1", "http://h:x", "http://h:70000", "http://[::1", "http://h:1/a b",
     "http://\u4f8b.jp:1", "http://h:1/\u20ac", f"http://{'a' * 64}.b:1", "http://a..b:1", "http://a\0b:1", "ftp://h:1"],
)  # fmt: skip
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(BadRequest, match="cannot use the endpoint"):
        connect(endpoint)
    with pytest.raises(BadRequest, match="cannot use the endpoint"):
        HttpClient(endpoint)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_no_time_is_refused(timeout: float) -> None:
    with pytest.raises(BadRequest, match="timeout"):
        HttpClient("http://h:1", timeout=timeout)


def test_the_connection_is_kept_and_sends_at_once(null_http: ServerProcess) -> None:
    with HttpClient(null_http.endpoint, timeout=10) as client:
        client.hello()
        assert client._connection._socket is not None
        connection = client._connection._socket.connection
        port = connection.getsockname()
        for number in range(50):
            if number % 10:
                client.predict(http.SAMPLE)
            else:
                with pytest.raises(BadRequest):
                    client.predict(http.SAMPLE, ["nothing"])
        assert client._connection._socket.connection is connection
        assert connection.getsockname() == port
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert connection.fileno() == -1


@CLIENTS
def test_no_server_is_told_and_the_client_works_once_there_is_one(make: MakeClient) -> None:
    port = free_port()
    with make(f"http://127.0.0.1:{port}", timeout=10) as client:
        for ask in (client.hello, lambda: client.predict(http.SAMPLE)):
            with pytest.raises(ServerUnavailable, match="imdb-serving flask"):
                ask()
        with http.server("--engine", "none", "--port", str(port)):
            first = client.hello().pid
        with pytest.raises(ServerUnavailable):
            client.predict(http.SAMPLE)
        with http.server("--engine", "none", "--port", str(port)):
            assert client.predict(http.SAMPLE)["prediction"].shape == (2,)
            assert client.hello().pid != first


def test_a_host_that_has_no_address_is_unavailable() -> None:
    with HttpClient("http://nothing.invalid:1", timeout=5) as client, pytest.raises(ServerUnavailable):
        client.hello()


def test_curl_leaves_nothing_running_and_says_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with CurlClient("http://127.0.0.1:9") as client, pytest.raises(BadRequest, match="there is no curl here"):
        client.hello()


def test_a_client_names_its_endpoint_whole() -> None:
    assert urlsplit(HttpClient("http://h:1/").endpoint).path == ""
