"""What the HTTP tests share: requests byte by byte, small fake servers, and servers within this process."""

from __future__ import annotations

import http.client
import json
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import rpc_kit as kit

from imdb_serving.clients.base import Client
from imdb_serving.messages import Handler, Request, ServerInfo, Tensor
from imdb_serving.server.http.app import make_app, make_worker_app
from imdb_serving.server.http.service import HttpServer, HttpService
from imdb_serving.server_process import ServerProcess
from imdb_serving.timing import Stage

PREDICTION = "/PaddleServing/v1.0/prediction"
JSON = "application/json"
SAMPLE = {"words": [8, 233, 52]}
BODY = json.dumps({**SAMPLE, "fetch": ["prediction"]}).encode()
ONE = Request({"words": Tensor(np.array([8, 233, 52]), (3,))}, ("prediction",), 1)
HTTP_STAGES = ["encode", "send", "queue", "parse", "handover", "op0", "op1", "op2", "reply", "decode"]


class Response(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def server(*arguments: str, command: str = "flask") -> ServerProcess:
    """An HTTP server in a process of its own."""
    return ServerProcess(arguments, command=command, ready_timeout=60)


def simulated(milliseconds: int, workers: int, kind: str = "thread", command: str = "flask") -> ServerProcess:
    """One that sleeps."""
    return server(
        "--engine", "simulated", "--service-time-ms", str(milliseconds), "--server-threads", str(workers),
        "--worker-kind", kind, command=command,
    )  # fmt: skip


def address(endpoint: str) -> tuple[str, int]:
    parts = urlsplit(endpoint)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def ask(endpoint: str, method: str = "GET", path: str = "/", body: bytes | None = None, **headers: str) -> Response:
    """One request on a connection of its own; `_` in a header's name is `-`."""
    connection = http.client.HTTPConnection(*address(endpoint), timeout=10)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())
    finally:
        connection.close()


def post(endpoint: str, body: bytes = BODY, **headers: str) -> Response:
    """POST a prediction."""
    return ask(endpoint, "POST", PREDICTION, body, **{"Content_Type": JSON, **headers})


def assert_problem(response: Response, status: int, code: str) -> str:
    """Check that the response is a problem document; its detail."""
    assert response.status == status, response
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    assert (problem["type"], problem["status"], problem["code"]) == ("about:blank", status, code)
    assert "Traceback" not in problem["detail"]
    detail: str = problem["detail"]
    return detail


def message(body: bytes = BODY, head: str = "", version: str = "1.1", method: str = "POST") -> bytes:
    """The bytes of a prediction request, with more lines in its head."""
    lines = f"{method} {PREDICTION} HTTP/{version}\r\nHost: x\r\nContent-Type: {JSON}\r\n{head}"
    return f"{lines}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


@contextmanager
def opened(endpoint: str) -> Iterator[socket.socket]:
    """A connection whose receiving gives up after ten seconds."""
    with socket.create_connection(address(endpoint), timeout=10) as connection:
        yield connection


def converse(endpoint: str, data: bytes) -> bytes:
    """Send bytes, then no more, and read until the server closes; what it said."""
    with opened(endpoint) as connection:
        said = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                said += part
        except (ConnectionResetError, BrokenPipeError):
            pass
        return said


def status_of(said: bytes) -> int:
    """The status in a response's first line."""
    return int(said.split(b" ", 2)[1])


def receive_answer(connection: socket.socket) -> bytes:
    """Read one response with a Content-Length from a kept connection; its body."""
    said = b""
    while b"\r\n\r\n" not in said:
        said += _some(connection)
    head, body = said.split(b"\r\n\r\n", 1)
    (length,) = (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += _some(connection)
    assert len(body) == length, "more than one answer came"
    return body


def _some(connection: socket.socket) -> bytes:
    part = connection.recv(1 << 16)
    assert part, "the connection was closed"
    return part


def failure(client: Client) -> BaseException | None:
    """The error of a prediction, which must come within ten seconds."""
    with kit.side_by_side(1) as run:
        return run(client.call, ONE).exception(timeout=10)


Script = Callable[[socket.socket, int], None]


@contextmanager
def fake_server(script: Script) -> Iterator[str]:
    """A server that does what `script` says with each connection, given its number; all are closed afterwards."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket, number: int) -> None:
        with connection:
            try:
                script(connection, number)
            except OSError:
                return  # the client has gone

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(10)
            connections.append(connection)
            threads.append(threading.Thread(target=serve, args=(connection, len(connections) - 1)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(10)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in (acceptor, *threads))


def read_request(connection: socket.socket) -> bytes:
    """Read one request with a body of `Content-Length` bytes; b"" when the client has closed."""
    data = b""
    while b"\r\n\r\n" not in data or len(data.split(b"\r\n\r\n", 1)[1]) < _length(data):
        part = connection.recv(1 << 16)
        if not part:
            return b""
        data += part
    return data


def _length(data: bytes) -> int:
    return int(data.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])


def answer(body: bytes = b'{"prediction":[0.25,0.75]}', status: str = "200 OK", head: str = "") -> bytes:
    """The bytes of a response."""
    return f"HTTP/1.1 {status}\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


INFO = ServerInfo("imdb-serving-http/1", "0", "test", "", 2, "thread", (), (), 1, 1)


def own_service(port: int = 0, max_body_bytes: int = 16 << 20) -> HttpService:
    """HTTP on a port of this process."""
    return HttpService("127.0.0.1", port, max_body_bytes, make_app)


@contextmanager
def own_server(handler: Handler, workers: int = 1, processes: int = 0, **options: Any) -> Iterator[HttpServer]:
    """An HTTP server in this process, once it is ready."""
    yield from running(HttpServer(own_service(), workers, processes, INFO, **options), lambda: handler)


def running(server: HttpServer, make_handler: Callable[[], Handler]) -> Iterator[HttpServer]:
    """Have a server answer with these handlers until the generator is closed."""
    server.set_handler(partial(make_worker_app, make_handler))
    ready: queue.Queue[str] = queue.Queue()
    runner = threading.Thread(target=server.run, args=(ready.put,))
    runner.start()
    try:
        ready.get(timeout=30)
        yield server
    finally:
        server.stop()
        runner.join(20)
    assert not runner.is_alive()


def most_at_once(replies: Sequence[Sequence[Stage]]) -> int:
    """How many requests were between op0 and op2 at the same time, at most."""
    events = []
    for stages in replies:
        spans = {stage.name: stage for stage in stages}
        events += [(spans["op0"].start_ns, 1), (spans["op2"].end_ns, -1)]
    now = most = 0
    for _, change in sorted(events):
        now += change
        most = max(most, now)
    return most


def run_and_fail(*arguments: str) -> tuple[int, str]:
    """Run a command that cannot serve; its exit code and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "imdb_serving", *arguments],
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr
