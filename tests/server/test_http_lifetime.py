"""An HTTP server says when it is ready, ends when asked, answers before it does, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from urllib.parse import urlsplit

import http_kit as http
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.http import HttpClient
from imdb_serving.errors import ServerStartError, ServerUnavailable
from imdb_serving.messages import Reply, Request
from imdb_serving.server.http.app import make_app, nobody
from imdb_serving.server.http.service import DevServer, HttpServer, HttpService
from imdb_serving.server_process import ServerProcess
from imdb_serving.timing import Timeline

COMMANDS = ["flask", "flask-gateway", "flask-dev"]
PROFILE = re.compile(r"PROFILE flask_cost: (\d+\.\d+) total_cost: (\d+\.\d+)")


def process_of(server: ServerProcess) -> subprocess.Popen[str]:
    process = server._process
    assert process is not None
    return process


@pytest.mark.parametrize(
    ("command", "number"), [*((command, signal.SIGTERM) for command in COMMANDS), ("flask", signal.SIGINT)]
)
def test_a_signal_lets_the_request_in_flight_be_answered(command: str, number: signal.Signals) -> None:
    with http.simulated(700, 2, command=command) as server, kit.side_by_side(1) as run:
        process, family = process_of(server), {server.pid, *kit.descendants(server.pid)}
        answer = run(http.post, server.endpoint)
        assert not wait_until(answer.done, 0.3)
        process.send_signal(number)
        assert answer.result(10).json() == {"prediction": [0.5, 0.5]}
        assert process.wait(10) == 0
        assert not [line for line in server.errors().splitlines() if "PROFILE" not in line and "POST" not in line]
        assert wait_until(lambda: not kit.alive(family), 5), "processes are left"


def test_while_it_ends_a_server_answers_what_waits_and_refuses_what_comes() -> None:
    with http.simulated(600, 1, "process") as server, kit.side_by_side(3) as run:
        with HttpClient(server.endpoint, timeout=10) as late:
            late.hello()
            accepted = [run(http.post, server.endpoint) for _ in range(3)]
            assert not wait_until(accepted[0].done, 0.3)
            process_of(server).terminate()
            assert wait_until(lambda: http.ask(server.endpoint, path="/health/ready").status == 503)
            assert http.ask(server.endpoint, path="/health/live").status == 200
            refused = http.post(server.endpoint)
            assert "is shutting down" in http.assert_problem(refused, 503, "unavailable")
            assert int(refused.headers["Retry-After"]) > 0
            with pytest.raises(ServerUnavailable, match="is shutting down"):
                late.predict(http.SAMPLE)
            assert not all(answer.done() for answer in accepted)
        assert [answer.result(10).status for answer in accepted] == [200] * 3
        assert (process_of(server).wait(10), server.errors()) == (0, "")


def test_requests_to_stop_that_are_repeated_change_nothing() -> None:
    with http.simulated(300, 1) as server, kit.side_by_side(1) as run:
        answer = run(http.post, server.endpoint)
        assert not wait_until(answer.done, 0.1)
        stdin = process_of(server).stdin
        assert stdin is not None
        process_of(server).terminate()
        process_of(server).send_signal(signal.SIGINT)
        stdin.close()
        process_of(server).terminate()
        assert answer.result(10).status == 200
        assert (process_of(server).wait(10), server.errors()) == (0, "")


def test_a_server_that_ends_does_not_wait_for_idle_and_unfinished_clients() -> None:
    with http.server("--engine", "none") as server, http.opened(server.endpoint), http.opened(server.endpoint) as half:
        half.sendall(http.message()[:-5])
        process_of(server).terminate()
        assert (process_of(server).wait(10), server.errors()) == (0, "")


@pytest.mark.parametrize("command", ["flask", "flask-gateway"])
def test_the_workers_of_a_killed_server_disappear(command: str) -> None:
    with http.simulated(300, 2, "process", command) as server, kit.side_by_side(1) as run:
        family = kit.descendants(server.pid)
        assert len(family) >= 3
        with HttpClient(server.endpoint, timeout=10) as client:
            answer = run(client.predict, http.SAMPLE)
            assert not wait_until(answer.done, 0.1)
            process_of(server).kill()
            assert isinstance(answer.exception(timeout=10), ServerUnavailable)
        assert wait_until(lambda: not kit.alive(family)), "processes are left"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_ends_with_its_standard_input(command: str) -> None:
    with http.server("--engine", "none", "--worker-kind", "process", command=command) as server:
        family, stdin = {server.pid, *kit.descendants(server.pid)}, process_of(server).stdin
        assert stdin is not None
        stdin.close()
        assert process_of(server).wait(10) == 0
        assert wait_until(lambda: not kit.alive(family))


def test_a_server_that_is_replacing_a_worker_ends_all_the_same() -> None:
    with http.server("--engine", "none", "--worker-kind", "process", "--server-threads", "2") as server:
        family = kit.descendants(server.pid)
        for worker in kit.workers(server.pid):
            os.kill(worker, signal.SIGKILL)
        http.post(server.endpoint)
        process_of(server).terminate()
        assert process_of(server).wait(15) == 0
        assert wait_until(lambda: not kit.alive(family))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_taken_port_is_told(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, errors = http.run_and_fail(command, "--engine", "none", "--port", str(port))
    assert code == 2
    assert errors.startswith(f"imdb-serving: ServerStartError: cannot listen on 127.0.0.1:{port}: ")
    assert "Address already in use" in errors
    assert errors.endswith("choose another port\n")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flask", "no/such/model"], "BundleError: no model at no/such/model"),
        (["flask"], "the paddle engine needs a model"),
        (["flask", "--engine", "non"], "did you mean 'none'?"),
        (["flask", "--engine", "none", "--host", "nothing.invalid"], "cannot listen on nothing.invalid:"),
        (["flask-gateway", "no/such/model"], "BundleError: no model at no/such/model"),
        (["flask-dev", "--rpc", "nonsense"], "cannot use the endpoint 'nonsense'"),
        (["flask-gateway", "--rpc", "tcp://127.0.0.1:9"], "ServerUnavailable: no server answers at tcp://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(arguments: list[str], message: str) -> None:
    code, errors = http.run_and_fail(*arguments, "--port", "0")
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1


def test_a_gateway_asks_the_rpc_server_it_is_given(null_server: ServerProcess) -> None:
    with http.server("--rpc", null_server.endpoint, command="flask-gateway") as server:
        assert kit.descendants(server.pid) == set()
        with HttpClient(server.endpoint, timeout=10) as client:
            assert client.hello().pid == null_server.pid
            assert client.predict(http.SAMPLE)["prediction"].tolist() == [0.5, 0.5]


def test_a_gateway_tells_when_the_rpc_server_is_gone_and_goes_on_when_it_is_back() -> None:
    with http.server("--engine", "none", command="serve") as rpc:
        port = urlsplit(rpc.endpoint).port
        with http.server("--rpc", rpc.endpoint, "--server-threads", "2", command="flask-gateway") as server:
            assert http.post(server.endpoint).status == 200
            rpc.stop()
            # A tenth of it is the gateway's to say so in: enough of it on a busy machine as well.
            refused = http.post(server.endpoint, X_Request_Timeout="4")
            http.assert_problem(refused, 503, "unavailable")
            assert "Retry-After" in refused.headers
            http.assert_problem(http.ask(server.endpoint, path="/health/ready"), 503, "unavailable")
            with http.server("--engine", "none", "--port", str(port), command="serve"):
                assert http.post(server.endpoint).status == 200
                assert http.ask(server.endpoint, path="/health/ready").status == 200


def test_a_late_rpc_server_is_a_gateway_timeout() -> None:
    with http.simulated(800, 1, command="flask-gateway") as server:
        http.assert_problem(http.post(server.endpoint, X_Request_Timeout="0.2"), 504, "timeout")
        assert http.post(server.endpoint).json() == {"prediction": [0.5, 0.5]}


def test_the_published_server_writes_a_profile_line_a_prediction() -> None:
    with http.simulated(50, 1, command="flask-dev") as server:
        for _ in range(3):
            assert http.post(server.endpoint).status == 200
        assert http.post(server.endpoint, b"{").status == 400
        assert http.post(server.endpoint, Content_Type="text/plain").status == 415
        lines = PROFILE.findall(server.errors())
    assert len(lines) == 3
    assert all(0 <= float(flask) < float(total) - 0.04 for flask, total in lines)


def test_the_production_server_writes_none() -> None:
    with http.server("--engine", "none", command="flask-gateway") as server:
        assert http.post(server.endpoint).status == 200
        assert server.errors() == ""


def faulty(_request: Request, _timeline: Timeline) -> Reply:
    raise ZeroDivisionError("secret")


def test_a_host_of_several_addresses_has_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", lambda *_, **__: both)
        server = HttpServer(HttpService("localhost", 0, 1024, make_app), 1, 0, http.INFO)
    server.stop()
    server.run(lambda _: None)
    server.stop()
    assert re.fullmatch(r"http://localhost:\d+", server.url)


def test_a_fault_of_the_application_is_told_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    with http.own_server(faulty) as server:
        detail = http.assert_problem(http.post(server.url), 500, "internal")
        assert "secret" not in detail
        assert http.ask(server.url).status == 200
    assert "ZeroDivisionError: secret" in caplog.text


def test_a_taken_port_is_told_by_both_servers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerStartError, match="choose another port"):
            http.own_service(port)
        with pytest.raises(ServerStartError, match="choose another port"):
            DevServer(make_app(nobody), "127.0.0.1", port)
