"""A server says when it is ready, ends when asked, answers before it does, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from urllib.parse import urlparse

import load_kit as load
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.errors import ServerStartError, ServerUnavailable
from imdb_serving.server_process import ServerProcess


def predict(endpoint: str) -> list[float]:
    with connect(endpoint, timeout=10) as client:
        values: list[float] = client.predict(kit.SAMPLE)["prediction"].tolist()
        return values


def test_the_ready_line_says_where_and_what(carrier: kit.Carrier) -> None:
    with kit.launched(carrier, "--engine", "none", "--server-threads", "3") as (
        process,
        ready,
    ):
        match = re.fullmatch(
            rf"ready {carrier.mode} {carrier.scheme}://127\.0\.0\.1:(\d+) engine=none "
            r"server_threads=3 worker_kind=thread processes=\d pid=(\d+)\n",
            ready,
        )
        assert match
        assert int(match[2]) == process.pid
        assert predict(carrier.endpoint(int(match[1]))) == [0.5, 0.5]


@pytest.mark.parametrize(("kind", "number"), load.some(
    [(kind, number) for kind in ("thread", "process") for number in (signal.SIGTERM, signal.SIGINT)],
    [("thread", signal.SIGTERM), ("process", signal.SIGINT)],
))  # fmt: skip
def test_a_signal_lets_the_request_in_flight_be_answered(
    tmp_path: Path, kind: str, number: signal.Signals, carrier: kit.Carrier
) -> None:
    arguments = ["--engine", "simulated", "--service-time-ms", "900", "--server-threads", "2", "--worker-kind", kind]
    with (
        kit.launched(carrier, *arguments, folder=tmp_path) as (process, ready),
        kit.side_by_side(1) as run,
    ):
        family = {process.pid, *kit.descendants(process.pid)}
        answer = run(predict, kit.endpoint_of(ready))
        time.sleep(0.4)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        assert answer.result(timeout=10) == [0.5, 0.5]
        assert process.wait(10) == 0
        assert wait_until(lambda: not kit.alive(family), 3), "processes are left"
        assert not kit.group_is_alive(process.pid)
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


def test_while_it_ends_a_server_refuses_new_requests_and_answers_those_that_wait(carrier: kit.Carrier) -> None:
    arguments = ["--engine", "simulated", "--service-time-ms", "700", "--server-threads", "1"]
    with kit.launched(carrier, *arguments) as (process, ready), kit.side_by_side(2) as run:
        endpoint = kit.endpoint_of(ready)
        with connect(endpoint, timeout=10) as late:
            late.hello()
            accepted = [run(predict, endpoint) for _ in range(2)]
            time.sleep(0.3)
            process.terminate()
            time.sleep(0.1)
            with pytest.raises(ServerUnavailable, match="is shutting down"):
                late.predict(kit.SAMPLE)
        assert [answer.result(timeout=10) for answer in accepted] == [[0.5, 0.5]] * 2
        assert process.wait(10) == 0


def test_the_workers_of_a_killed_server_disappear(tmp_path: Path, carrier: kit.Carrier) -> None:
    arguments = [
        "--worker-kind",
        "process",
        "--engine",
        "simulated",
        "--service-time-ms",
        "500",
        "--server-threads",
        "2",
    ]
    with (
        kit.launched(carrier, *arguments, folder=tmp_path) as (process, ready),
        kit.side_by_side(1) as run,
    ):
        family = kit.descendants(process.pid)
        assert len(kit.workers(process.pid)) == 2
        with connect(kit.endpoint_of(ready), timeout=1) as client:
            answer = run(client.predict, kit.SAMPLE)
            time.sleep(0.2)
            process.kill()
            assert isinstance(answer.exception(timeout=10), ServerUnavailable)
        process.wait(5)
        assert wait_until(lambda: not kit.alive(family), 5), "workers are left"


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_server_ends_with_its_standard_input(kind: str) -> None:
    with ServerProcess(["--engine", "none", "--worker-kind", kind]) as server:
        process = server._process
        assert process is not None
        assert process.stdin is not None
        family = {server.pid, *kit.descendants(server.pid)}
        process.stdin.close()
        assert process.wait(5) == 0
        assert wait_until(lambda: not kit.alive(family), 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_watches_its_standard_input_still_ends_cleanly_at_a_signal(number: signal.Signals) -> None:
    with ServerProcess(["--engine", "none"]) as server:
        process = server._process
        assert process is not None
        process.send_signal(number)
        assert (process.wait(10), server.errors()) == (0, "")


def test_a_server_process_is_gone_when_its_block_ends() -> None:
    with ServerProcess(["--engine", "none", "--worker-kind", "process", "--server-threads", "2"]) as server:
        family = {server.pid, *kit.descendants(server.pid)}
        assert len(family) >= 4
    assert wait_until(lambda: not kit.alive(family), 3)
    with pytest.raises(ServerStartError, match="not running"):
        _ = server.pid


def test_a_taken_port_is_told(null_server: ServerProcess, carrier: kit.Carrier) -> None:
    port = urlparse(null_server.endpoint).port
    code, errors = kit.serve_and_fail("--engine", "none", "--endpoint", carrier.endpoint(port or 0))
    assert code == 2
    assert re.match(
        rf"imdb-serving: ServerStartError: cannot listen on (tcp://)?127\.0\.0\.1:{port}: .*Address already in use",
        errors,
    )
    assert errors.endswith("choose another port\n")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/model"], "BundleError: no model at no/such/model; make one with `imdb-serving train`"),
        (["."], "model_card.json is missing from the model bundle"),
        ([], "the paddle engine needs a model"),
        (["--engine", "non"], "unknown engine 'non'; did you mean 'none'?"),
        (["--engine", "simulated", "--service-time-ms", "nan"], "must be a finite number"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(arguments: list[str], message: str) -> None:
    code, errors = kit.serve_and_fail(*arguments, "--port", "0")
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1


def test_a_server_process_that_cannot_start_says_why_and_leaves_nothing_open() -> None:
    with (
        pytest.raises(ServerStartError, match=r"did not become ready: .*no model at no/such/model"),
        ServerProcess(["no/such/model"]),
    ):
        pytest.fail("it cannot be ready")


def test_a_server_process_that_is_not_ready_in_time_is_ended() -> None:
    server = ServerProcess(["--engine", "none"], ready_timeout=0.01)
    with pytest.raises(ServerStartError, match="did not become ready"), server:
        pytest.fail("it cannot be ready")
