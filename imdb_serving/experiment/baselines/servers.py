"""The baselines: the smallest servers that do the same work, as processes, and the clients that drive them."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter_ns, sleep
from typing import IO

import msgspec
import numpy as np
import zmq

from imdb_serving.clients.base import Client
from imdb_serving.errors import RemoteFailure, ServerStartError, ServerUnavailable, ServingError
from imdb_serving.experiment.baselines import ENGINE, MODEL
from imdb_serving.messages import Array, Reply, Request, ServerInfo
from imdb_serving.server_process import end
from imdb_serving.timing import Stage

NOTHING = np.full((1, 2), 0.5, dtype=np.float32)
"""What an echo's client says was predicted."""


class BaselineClient(Client):
    """A client of a server on a port of this host, for requests of one review. Its one stage is the whole request."""

    timeout = 30.0

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, words: Array) -> Array:
        """Send one review and return what came back, shape [1, 2]."""
        raise NotImplementedError

    def call(self, request: Request) -> Reply:
        begun = perf_counter_ns()
        prediction = self.ask(request.feed["words"].values)
        return Reply({"prediction": prediction}, [Stage("exchange", begun, perf_counter_ns())])

    def hello(self) -> ServerInfo:
        self.ask(np.array([1], dtype=np.int64))
        return ServerInfo("baseline", "", "", "", 0, "", (), (), 0, os.getpid())


class ZmqEchoClient(BaselineClient):
    """The client of ZeroMQ's echo."""

    def __init__(self, port: int) -> None:
        """Connect."""
        super().__init__(port)
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.rcvtimeo = int(self.timeout * 1000)
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    def ask(self, words: Array) -> Array:
        try:
            self._socket.send(words.tobytes())
            self._socket.recv()
        except zmq.ZMQError as error:
            raise ServerUnavailable(f"the echo on port {self._port} does not answer: {error}") from error
        return NOTHING

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class SocketEchoClient(BaselineClient):
    """The client of the plain socket's echo."""

    def __init__(self, port: int) -> None:
        """Connect."""
        super().__init__(port)
        self._socket = _connected(port, self.timeout)

    def ask(self, words: Array) -> Array:
        data = words.tobytes()
        self._socket.sendall(struct.pack("<I", len(data)) + data)
        missing = len(data) + 4
        while missing:
            missing -= (count := len(self._socket.recv(missing)))
            if not count:
                raise ServerUnavailable(f"the echo on port {self._port} has gone")
        return NOTHING

    def close(self) -> None:
        self._socket.close()


POST = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


class JsonClient(BaselineClient):
    """The client of the JSON servers: HTTP/1.1 by hand. Connects again where the server closes."""

    _socket: socket.socket | None = None

    def ask(self, words: Array) -> Array:
        """POST the ids."""
        body = msgspec.json.encode({"words": words.tolist()})
        try:
            if self._socket is None:
                self._socket = _connected(self._port, self.timeout)
            self._socket.sendall(POST % (len(body), body))
            head, answer = self._receive(self._socket)
        except OSError as error:
            self.close()
            raise ServerUnavailable(f"the server on port {self._port} does not answer: {error}") from error
        if b"connection: close" in head:
            self.close()
        if head[9:12] != b"200":
            raise RemoteFailure(f"the server on port {self._port} answered {head[:40]!r}")
        return np.array([msgspec.json.decode(answer)["prediction"]], dtype=np.float32)

    @staticmethod
    def _receive(connection: socket.socket) -> tuple[bytes, bytes]:
        data = b""
        while True:
            head, found, answer = data.partition(b"\r\n\r\n")
            if found:
                head = head.lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                if len(answer) >= length:
                    return head, answer
            more = connection.recv(1 << 14)
            if not more:
                raise ConnectionResetError("it closed the connection")
            data += more

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _connected(port: int, timeout: float) -> socket.socket:
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout)
    except OSError as error:
        raise ServerUnavailable(f"nothing listens on port {port}: {error}") from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


UP_SECONDS = 60.0
STOP_SECONDS = 5.0
HERE = "imdb_serving.experiment.baselines"


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline: its description, its command by workers and port, its client, and whether it runs the engine."""

    what: str
    command: Callable[[int, int], Sequence[str]]
    client: Callable[[int], BaselineClient]
    predicts: bool


BASELINES: Mapping[str, Baseline] = {
    "zmq-echo": Baseline(
        "raw ZeroMQ, one process that sends back what it receives",
        lambda _workers, port: ["-m", f"{HERE}.echoes", "zeromq", str(port)],
        ZmqEchoClient,
        predicts=False,
    ),
    "socket-echo": Baseline(
        "a plain socket, one process that sends back what it receives",
        lambda _workers, port: ["-m", f"{HERE}.echoes", "socket", str(port)],
        SocketEchoClient,
        predicts=False,
    ),
    "asgi-uvicorn": Baseline(
        "raw ASGI on uvicorn, JSON, a process a worker",
        lambda workers, port: [
            *("-m", "uvicorn", f"{HERE}.json_apps:asgi", "--port", str(port), "--workers", str(workers)),
            *("--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "600"),
        ],
        JsonClient,
        predicts=True,
    ),
    "flask-gunicorn": Baseline(
        "plain Flask on gunicorn, JSON, a synchronous process a worker",
        lambda workers, port: [
            *(
                "-m",
                "gunicorn",
                f"{HERE}.json_apps:flask_app()",
                "--bind",
                f"127.0.0.1:{port}",
                "--workers",
                str(workers),
            ),
            *("--log-level", "warning"),
        ],
        JsonClient,
        predicts=True,
    ),
}


@contextmanager
def running(baseline: Baseline, workers: int, engine_name: str, model: Path | None) -> Iterator[tuple[int, int]]:
    """Start a baseline and give its process id and port; raise `ServerStartError` with its own words if it fails."""
    port = _free_port()
    environment = {**os.environ, ENGINE: engine_name, MODEL: str(model or "")}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [sys.executable, *baseline.command(workers, port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
        )
        try:
            _await_answer(baseline, process, port, errors)
            yield process.pid, port
        finally:
            end(process, STOP_SECONDS)


def _await_answer(baseline: Baseline, process: subprocess.Popen[bytes], port: int, errors: IO[str]) -> None:
    deadline = monotonic() + UP_SECONDS
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1.0):
                pass
            with baseline.client(port) as client:
                client.hello()
        except (OSError, ServingError) as error:
            if process.poll() is not None or monotonic() > deadline:
                errors.seek(0)
                said = errors.read()[-500:].strip()
                raise ServerStartError(f"the baseline did not start: {said or error}") from error
            sleep(0.05)
        else:
            return


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
