"""The baselines' servers as processes: each is up when it has answered, and gone when its block ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import IO

from imdb_serving.bench.runs.baselines import engine
from imdb_serving.bench.runs.baselines.clients import BaselineClient, JsonClient, SocketEchoClient, ZmqEchoClient
from imdb_serving.errors import ServerStartError, ServingError
from imdb_serving.server_process import end

UP_SECONDS = 60.0
STOP_SECONDS = 5.0
HERE = "imdb_serving.bench.runs.baselines"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What it is, in words; how to start it with so many workers on a port; its client; whether it runs the engine."""

    what: str
    command: Callable[[int, int], Sequence[str]]
    client: Callable[[int], BaselineClient]
    predicts: bool


BASELINES: Mapping[str, Baseline] = {
    "zmq-echo": Baseline(
        "raw ZeroMQ, one process that sends back what it receives",
        lambda _workers, port: ["-m", f"{HERE}.zeromq_echo", str(port)],
        ZmqEchoClient,
        predicts=False,
    ),
    "socket-echo": Baseline(
        "a plain socket, one process that sends back what it receives",
        lambda _workers, port: ["-m", f"{HERE}.socket_echo", str(port)],
        SocketEchoClient,
        predicts=False,
    ),
    "asgi-uvicorn": Baseline(
        "raw ASGI on uvicorn, JSON, a process a worker",
        lambda workers, port: [
            *("-m", "uvicorn", f"{HERE}.asgi_plain:app", "--port", str(port), "--workers", str(workers)),
            *("--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "600"),
        ],
        JsonClient,
        predicts=True,
    ),
    "flask-gunicorn": Baseline(
        "plain Flask on gunicorn, JSON, a synchronous process a worker",
        lambda workers, port: [
            *("-m", "gunicorn", f"{HERE}.flask_plain:app", "--bind", f"127.0.0.1:{port}", "--workers", str(workers)),
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
    environment = {**os.environ, engine.ENGINE: engine_name, engine.MODEL: str(model or "")}
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
