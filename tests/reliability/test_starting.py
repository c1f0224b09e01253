"""Listening is not readiness: a server that starts says so, and clients wait for it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import http_kit as http
import load_kit as load
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients import connect as connecting
from imdb_serving.clients.connect import connect
from imdb_serving.errors import ServerUnavailable

SLOW = """
import time
from imdb_serving.pipeline import imdb_pipeline

def make(engine, bundle):
    time.sleep({seconds})
    return imdb_pipeline(engine, bundle)
"""
MODES = {"rpc": "tcp", "socket": "socket", "flask": "http", "flask-gateway": "http", "flask-dev": "http"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def begun(
    mode: str, folder: Path, seconds: float, kind: str = "process"
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server whose workers take so long to be made, just started; and its endpoint."""
    (folder / "slow.py").write_text(SLOW.format(seconds=seconds))
    port = free_port()
    endpoint = f"{MODES[mode]}://127.0.0.1:{port}"
    command = mode if MODES[mode] == "http" else "serve"
    place = ["--port", str(port)] if command != "serve" else ["--endpoint", endpoint]
    arguments = ["--engine", "none", "--server-threads", "2", "--worker-kind", kind, "--pipeline", "slow:make"]
    with subprocess.Popen(
        [sys.executable, "-m", "imdb_serving", command, *place, *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    ) as process:  # fmt: skip
        try:
            yield process, endpoint
        finally:
            kit.kill_group(process.pid)


def said_while_starting(endpoint: str) -> str:
    """What a prediction is answered, once somebody listens."""
    until = time.monotonic() + 30
    with connect(endpoint, 20) as client:
        while time.monotonic() < until:
            try:
                client.predict(kit.SAMPLE)
            except ServerUnavailable as error:
                if error.answered:
                    return str(error)
                time.sleep(0.02)
            else:
                return "answered"
    return "nobody listens"


@pytest.mark.parametrize(("mode", "kind"), load.some(
    [(mode, kind) for mode in load.MODES for kind in ("thread", "process")], [("rpc", "process"), ("flask", "thread")]
))  # fmt: skip
def test_a_server_that_starts_says_so_at_once_and_answers_when_it_can(mode: str, kind: str, tmp_path: Path) -> None:
    with begun(mode, tmp_path, 4, kind) as (process, endpoint):
        assert said_while_starting(endpoint).startswith("starting, ready in about ")
        with connect(endpoint, 20) as client, pytest.raises(ServerUnavailable, match="starting, ready in about"):
            client.hello()
        with connect(endpoint, 20, wait=60) as client:
            assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
        assert out.startswith(f"ready {mode} {endpoint}")


@pytest.mark.parametrize("mode", load.some(["flask", "flask-gateway", "flask-dev"], ["flask-gateway"]))
def test_over_http_that_is_a_503_with_retry_after(mode: str, tmp_path: Path) -> None:
    with begun(mode, tmp_path, 4) as (_, endpoint):
        assert said_while_starting(endpoint).startswith("starting, ready in about ")
        for response in (http.post(endpoint), http.ask(endpoint, path="/health/ready")):
            assert http.assert_problem(response, 503, "unavailable").startswith("starting, ready in about ")
            assert int(response.headers["Retry-After"]) >= 1
        assert http.ask(endpoint, path="/health/live").status == 200
        with connect(endpoint, 20, wait=60) as client:
            assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("mode", list(MODES))
def test_a_server_that_is_asked_to_end_while_it_starts_ends(mode: str, tmp_path: Path) -> None:
    with begun(mode, tmp_path, 600) as (process, endpoint):
        assert said_while_starting(endpoint).startswith("starting")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "")
        assert wait_until(lambda: not kit.group_is_alive(process.pid), 20)


@pytest.mark.parametrize("mode", ["rpc", "flask", "flask-gateway"])
def test_a_server_that_cannot_start_says_why_although_it_listened(mode: str, tmp_path: Path) -> None:
    with begun(mode, tmp_path, 0.5) as (process, _):
        (tmp_path / "slow.py").write_text("def make(engine, bundle):\n    raise RuntimeError('no weights')\n")
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, "")
        assert "could not start: RuntimeError: no weights" in errors


def test_who_waits_for_nobody_waits_ten_seconds_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connecting.LISTEN_SECONDS == 10
    monkeypatch.setattr(connecting, "LISTEN_SECONDS", 0.5)
    for scheme in ("tcp", "socket", "http"):
        with pytest.raises(ServerUnavailable, match="no server answers at"):
            connect(f"{scheme}://127.0.0.1:{free_port()}", 5, wait=60)


def test_a_client_of_several_servers_waits_as_well(tmp_path: Path) -> None:
    nobody = f"socket://127.0.0.1:{free_port()}"
    with begun("socket", tmp_path, 2) as (_, endpoint), connect([nobody, endpoint], 20, wait=60) as client:
        assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]


CLIENTS = [("rpc", ["client-multi"], ["2"]), ("socket", ["client-multi"], ["1"]), ("flask", ["flask-client"], ["2"])]


def started_together(mode: str, command: list[str], clients: list[str], bundle: Path, folder: Path) -> None:
    """Start a server and a client in the same instant, while three processes keep the processors busy."""
    (folder / "data").write_text("A fine film | 1\nToo long | 0\n" * 150)
    port = free_port()
    endpoint = f"{MODES[mode]}://127.0.0.1:{port}"
    place = (
        ["flask", str(bundle), "--port", str(port)]
        if mode == "flask"
        else ["serve", str(bundle), "--endpoint", endpoint]
    )
    run = [sys.executable, "-m", "imdb_serving"]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    server = subprocess.Popen(
        [*run, *place, "--server-threads", "2"], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        done = subprocess.run(
            [*run, *command, str(bundle / "inference.conf"), str(folder / "data"), *clients, "--endpoint", endpoint],
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 300
        assert done.stderr.count("waiting up to 60 s") <= 1
    finally:
        for process in busy:
            process.kill()
            process.wait()
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
        kit.kill_group(server.pid)


@pytest.mark.parametrize(("mode", "command", "clients"), load.some(CLIENTS, [CLIENTS[0], CLIENTS[2]]))
def test_a_server_and_a_client_started_together(mode, command, clients, bundle: Path, tmp_path: Path) -> None:
    started_together(mode, command, clients, bundle, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("mode", "command", "clients"), CLIENTS)
def test_ten_times(mode, command, clients, bundle: Path, tmp_path: Path) -> None:
    for _ in range(10):
        started_together(mode, command, clients, bundle, tmp_path)


def test_without_a_wait_a_client_fails_at_once(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("A fine film | 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "imdb_serving", "client-multi", str(bundle / "inference.conf"), str(tmp_path / "data"),
         "1", "--endpoint", f"socket://127.0.0.1:{free_port()}", "--wait", "0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "waiting" not in done.stderr
    assert "no server answers at" in done.stderr
