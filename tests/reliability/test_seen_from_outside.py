"""What a server shows of itself: metrics that count what happened, `status`, and a log of one line an event."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.request import urlopen

import http_kit as http
import load_kit as load
import psutil
import pytest
import rpc_kit as kit
from prometheus_client.parser import text_string_to_metric_families
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.errors import ServingError
from imdb_serving.server_process import ServerProcess


def scraped(url: str) -> dict[str, float]:
    """All samples at a metrics port: `name{label value}` to value."""
    with urlopen(url, timeout=10) as response:
        text = response.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = " ".join(sample.labels.values())
            found[f"{sample.name.removeprefix('imdb_serving_')}{{{labels}}}"] = sample.value
    return found


COUNTED = [(mode, kind) for mode in load.MODES for kind in ("thread", "process")]


@pytest.mark.parametrize(("mode", "kind"), load.some(COUNTED, [("rpc", "process"), ("flask", "thread")]))
def test_metrics_count_what_happened(mode: str, kind: str) -> None:
    arguments = ["--engine", "none", "--server-threads", "2", "--worker-kind", kind, "--metrics-port", "0"]
    with ServerProcess.of_mode(mode, arguments) as server, connect(server.endpoint, 20) as client:
        for _ in range(30):
            client.predict(kit.SAMPLE)
        for feed in ({"words": [-1]}, {"words": "text"}):  # what a worker refuses
            with suppress(ServingError):
                client.predict(feed)
        url = client.hello().metrics
        assert wait_until(lambda: scraped(url)["stage_seconds_count{op1}"] == 30)
        seen = scraped(url)
        assert seen["requests_total{answered}"] == 30
        assert seen["requests_total{bad_request}"] == 2
        assert (seen["requests_waiting{}"], seen["requests_at_work{}"]) == (0, 0)
        assert (seen["workers{wanted}"], seen["workers{ready}"], seen["workers{given_up}"]) == (2, 2, 0)
        assert seen["memory_bytes{server}"] > 1 << 20
        assert seen["stage_seconds_count{queue}"] == 30
        if kind == "process":
            assert seen["memory_bytes{worker-1}"] > 1 << 20
            before = kit.workers(server.pid)
            os.kill(min(before), signal.SIGKILL)
            assert wait_until(lambda: scraped(url)["worker_restarts_total{}"] == 1, 30)


def test_metrics_count_what_no_worker_saw() -> None:
    arguments = ["--max-queue", "1", "--metrics-port", "0"]
    with load.simulated("rpc", 300, 1, "thread", *arguments) as server, connect(server.endpoint, 20) as client:
        url = client.hello().metrics
        with load.clients_at_work(server.endpoint, 4, 20) as clients:
            assert wait_until(lambda: clients.outcomes["overloaded"] > 3 and clients.answered > 1, 30)
        with kit.raw_socket(server.endpoint) as dealer:
            dealer.send_multipart([kit.VERSION, b"garbage"])
            assert kit.read_answer(dealer.recv_multipart())["code"] == "bad_request"
        seen = scraped(url)
    assert seen["requests_total{overloaded}"] == seen["dropped_total{refused}"] == clients.outcomes["overloaded"]
    assert seen["requests_total{answered}"] == clients.answered
    assert seen["requests_total{bad_request}"] == 1


def test_a_gateway_tells_its_own_metrics_and_the_published_server_has_none() -> None:
    with http.server("--engine", "none", "--metrics-port", "0", command="flask-gateway") as server:
        http.post(server.endpoint)
        with connect(server.endpoint, 20) as client:
            assert scraped(client.hello().metrics)["requests_total{answered}"] == 1
    code, errors = run("flask-dev", "--engine", "none", "--port", "0", "--metrics-port", "0")
    assert (code, "leave out --metrics-port" in errors) == (2, True)


def run(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "imdb_serving", *arguments],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stderr if done.returncode else done.stdout


def test_status_prints_who_serves_and_the_metrics() -> None:
    with ServerProcess(["--engine", "none", "--metrics-port", "0"]) as server, connect(server.endpoint, 20) as client:
        client.predict(kit.SAMPLE)
        url = client.hello().metrics
        assert wait_until(lambda: "stage_seconds_count{op1}" in scraped(url))
        code, text = run("status", server.endpoint)
        assert code == 0
        for words in (
            "engine              none",
            "workers ready       4",
            "outcome=answered",
            "stage=op1",
            "memory_bytes",
        ):
            assert words in text
        assert "outcome=answered" in run("status", url)[1]
    code, errors = run("status", server.endpoint, "--timeout", "0.5")
    assert (code, "no server answers" in errors) == (2, True)
    code, errors = run("status", url)
    assert (code, "no metrics at" in errors) == (2, True)


def test_status_says_that_there_are_no_metrics() -> None:
    with ServerProcess(["--engine", "none"]) as server:
        assert "started without --metrics-port" in run("status", server.endpoint)[1]


@pytest.mark.parametrize("command", ["serve", "flask"])
def test_a_taken_port_for_metrics_is_told(command: str) -> None:
    with http.socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, errors = run(command, "--engine", "none", "--port", "0", "--metrics-port", port)
    assert (code, f"cannot serve metrics on 127.0.0.1:{port}" in errors) == (2, True)


SECRET = "a-word-that-must-not-be-logged"
FAULTY = """
from imdb_serving.pipeline import imdb_pipeline

class Faulty:
    stage_names = ("op0",)
    def __call__(self, request, timeline):
        raise ZeroDivisionError("in the model")

def make(engine, bundle):
    return Faulty()
"""


LOGS = [(form, mode, kind) for form in ("json", "text") for mode in load.MODES for kind in ("thread", "process")]
SHORT = [("json", "rpc", "process"), ("json", "flask", "thread"), ("text", "socket", "process")]


@pytest.mark.parametrize(("form", "mode", "kind"), load.some(LOGS, SHORT))
def test_the_log_has_one_line_an_event_and_no_review(
    form: str, mode: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.chdir(tmp_path)
    arguments = ["--engine", "none", "--worker-kind", kind, "--server-threads", "1", "--pipeline", "faulty:make",
                 "--log", form, "--log-level", "info"]  # fmt: skip
    with ServerProcess.of_mode(mode, arguments) as server:
        with connect(server.endpoint, 20) as client, pytest.raises(ServingError, match="its log says why"):
            client.predict({"words": SECRET})
        if kind == "process":
            before = kit.workers(server.pid)
            os.kill(min(before), signal.SIGKILL)
            assert wait_until(lambda: len(kit.workers(server.pid) - before) == 1, 30)
        errors = server._errors
        assert errors is not None
        errors.flush()
        errors.seek(0)
        lines = errors.read().splitlines()
    assert SECRET not in "\n".join(lines)
    if form == "text":
        assert all(line[:4].isdigit() and line[23] == "Z" for line in lines), lines
        assert any("request failed event=request_failed request_id=1" in line for line in lines)
        assert any("ZeroDivisionError: in the model" in line for line in lines)
        return
    events = [json.loads(line) for line in lines]
    failed = [event for event in events if event.get("event") == "request_failed"]
    assert [(event["request_id"], event["code"], event["level"]) for event in failed] == [(1, "internal", "INFO")]
    assert any("ZeroDivisionError: in the model" in event.get("exc_info", "") for event in events)
    if kind == "process":
        assert any(event.get("event") == "worker_replaced" and event["worker"] == 0 for event in events)


def test_silent_connections_to_the_metrics_port_cost_no_threads_and_hold_up_nobody() -> None:
    with ServerProcess(["--engine", "none", "--metrics-port", "0"]) as server, connect(server.endpoint, 10) as client:
        url = client.hello().metrics
        process = psutil.Process(server.pid)
        before = process.num_threads()
        host, port = http.address(url)
        with ExitStack() as stack:
            for number in range(200):
                silent = stack.enter_context(socket.create_connection((host, port), 5))
                if number % 2:
                    silent.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nA: ")
            assert scraped(url)["workers{ready}"] == 4
            assert process.num_threads() <= before + 1
