"""Exactly N handlers at work whatever carries the requests, none idle while one waits; one that dies is replaced."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import http_kit as http
import numpy as np
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.clients.http import HttpClient
from imdb_serving.errors import UNFORESEEN, Overloaded, RemoteFailure, RequestTimeout, ServingError
from imdb_serving.messages import Handler, Reply, Request
from imdb_serving.server import server, work_watch
from imdb_serving.server.http.parsing import MAX_FIELDS
from imdb_serving.server.http.requests import HttpCarrier
from imdb_serving.server.http.service import HttpServer
from imdb_serving.server.workers.ready_set import SelectorReadySet
from imdb_serving.timing import Stage, Timeline


def calls(endpoint: str, count: int, timeout: float = 30) -> list[list[Stage]]:
    """The stages of several requests of one client."""
    with connect(endpoint, timeout) as client:
        return [client.call(http.ONE).stages for _ in range(count)]


@pytest.mark.parametrize(
    ("command", "kind", "workers"),
    [("serve", "process", 3), ("serve", "thread", 3), ("flask", "thread", 1), ("flask", "thread", 4),
     ("flask", "process", 3), ("flask-gateway", "thread", 3), ("flask-dev", "thread", 3)],
)  # fmt: skip
def test_as_many_handlers_are_at_work_as_there_are_server_threads(command: str, kind: str, workers: int) -> None:
    clients = 2 * workers
    with http.simulated(30, workers, kind, command) as server, kit.side_by_side(clients) as run:
        answers = [run(calls, server.endpoint, 6) for _ in range(clients)]
        replies = [stages for answer in answers for stages in answer.result(60)]
    assert len(replies) == 6 * clients
    assert http.most_at_once(replies) == (1 if command == "flask-dev" else workers)


def test_no_worker_idles_while_a_request_waits() -> None:
    with http.simulated(60, 3) as server, kit.side_by_side(9) as run:
        answers = [run(calls, server.endpoint, 5) for _ in range(9)]
        replies = [{stage.name: stage for stage in stages} for answer in answers for stages in answer.result(60)]
    worked = sorted((stages["op0"].start_ns, stages["op2"].end_ns) for stages in replies)
    waited = [(stages["queue"].start_ns, stages["op0"].start_ns) for stages in replies]
    idle = 0
    for start, end in waited:
        # Whenever a request waits, the time of all three workers must go into others' requests.
        busy = sum(max(0, min(end, done) - max(start, began)) for began, done in worked)
        idle += 3 * (end - start) - busy
    assert idle / sum(3 * (end - start) for start, end in waited) < 0.25  # one that idles would make a third


@pytest.mark.parametrize("count", [1, 3])
def test_there_are_as_many_worker_processes_as_asked_for(count: int) -> None:
    with http.server("--engine", "none", "--worker-kind", "process", "--server-threads", str(count)) as server:
        assert len(kit.workers(server.pid)) == count


def outcomes(endpoint: str, until: threading.Event, timeout: float = 20) -> list[ServingError | None]:
    """What a client under load sees, which goes on after errors."""
    seen: list[ServingError | None] = []
    with HttpClient(endpoint, timeout=timeout) as client:
        while not until.is_set():
            try:
                client.predict(http.SAMPLE)
                seen.append(None)
            except ServingError as error:
                seen.append(error)
    return seen


def test_a_worker_killed_under_load_costs_no_request_and_is_replaced() -> None:
    until = threading.Event()
    with http.simulated(50, 2, "process") as server, kit.side_by_side(4) as run:
        before = kit.workers(server.pid)
        answers = [run(outcomes, server.endpoint, until) for _ in range(4)]
        try:
            time.sleep(0.3)
            os.kill(min(before), signal.SIGKILL)
            assert wait_until(lambda: len(kit.workers(server.pid) - before) == 1)
            assert wait_until(lambda: http.ask(server.endpoint, path="/health/ready").status == 200)
        finally:
            until.set()
        seen = [outcome for answer in answers for outcome in answer.result(30)]
        assert not [outcome for outcome in seen if outcome is not None]
        assert len(seen) > 10
        assert kit.workers(server.pid) & before == before - {min(before)}
        replies = [answer.result(30) for answer in [run(calls, server.endpoint, 6) for _ in range(4)]]
        assert http.most_at_once([stages for reply in replies for stages in reply]) == 2


def gated(folder: Path) -> Handler:
    """Make a handler that ends its process; one for the third worker only once the gate is open."""
    if (folder / "second").exists():
        assert wait_until((folder / "gate").exists, 60)
    (folder / ("second" if (folder / "first").exists() else "first")).touch()

    def die(request: Request, timeline: Timeline) -> Reply:
        os.kill(os.getpid(), signal.SIGKILL)
        raise NotImplementedError

    return die


def test_readiness_tells_that_no_worker_is_there(tmp_path: Path) -> None:
    server = HttpServer(http.own_service(), 1, 1, http.INFO)
    with contextmanager(http.running)(server, partial(gated, tmp_path)):
        asked = threading.Thread(target=http.post, args=(server.url,))
        asked.start()
        assert wait_until(lambda: http.ask(server.url, path="/health/ready").status == 503, 30)
        ready = http.ask(server.url, path="/health/ready")
        assert http.assert_problem(ready, 503, "unavailable").startswith("no worker is ready: 1 being replaced")
        assert int(ready.headers["Retry-After"]) > 0
        assert "cannot predict at the moment" in http.ask(server.url).body.decode()
        (tmp_path / "gate").touch()
        asked.join(30)
        assert wait_until(lambda: http.ask(server.url, path="/health/ready").status == 200, 30)


def all_threads_stopped(pid: int) -> bool:
    stats = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def test_a_hung_worker_is_a_timeout_and_is_replaced() -> None:
    with http.server("--engine", "none", "--worker-kind", "process", "--server-threads", "1") as server:
        (hung,) = kit.workers(server.pid)
        os.kill(hung, signal.SIGSTOP)
        assert wait_until(lambda: all_threads_stopped(hung))
        response = http.post(server.endpoint, X_Request_Timeout="0.3")
        assert "the deadline passed while" in http.assert_problem(response, 504, "timeout")
        assert http.post(server.endpoint).status == 200
        assert hung not in kit.workers(server.pid)


def test_requests_that_come_late_cost_no_worker() -> None:
    with http.simulated(200, 2, "process") as server, kit.side_by_side(8) as run:
        before = kit.workers(server.pid)
        late = [run(http.post, server.endpoint, X_Request_Timeout=seconds) for seconds in ("0.001", "0.1", "0.3") * 4]
        assert {answer.result(20).status for answer in late} <= {200, 503, 504}  # 503: it is known that it will be late
        assert http.post(server.endpoint).status == 200
        assert kit.workers(server.pid) == before


@contextmanager
def own_server(handler: Handler, workers: int, **options: Any) -> Iterator[str]:
    with http.own_server(handler, workers, **options) as server:
        yield server.url


def sleeper(request: Request, timeline: Timeline) -> Reply:
    """Sleep as many milliseconds as the first word says; 0 is a fault."""
    milliseconds = int(request.feed["words"].values[0])
    with timeline.stage("op0"):
        1 / milliseconds
        time.sleep(milliseconds / 1000)
    return Reply({"prediction": np.full((1, 1), milliseconds, np.float32)}, timeline.stages)


def test_both_ends_of_every_connection_send_at_once() -> None:
    with http.own_server(sleeper) as server, HttpClient(server.url, timeout=10) as client:
        client.hello()
        (connection,) = server.listener.connections.values()
        assert client._connection._socket is not None
        for end in (connection.socket, client._connection._socket.connection):
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_slow_request_holds_up_nobody_while_a_worker_is_free() -> None:
    with (
        own_server(sleeper, 2) as url,
        kit.side_by_side(4) as run,
        HttpClient(url, timeout=10) as slow,
        HttpClient(url, timeout=10) as quick,
    ):
        waiting = run(slow.predict, {"words": [900]})
        assert not wait_until(waiting.done, 0.1)
        for _ in range(10):
            quick.predict({"words": [20]})
        assert not waiting.done()


def test_a_fault_in_a_handler_is_a_remote_failure_and_the_worker_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with own_server(sleeper, 1) as url, HttpClient(url, timeout=10) as client:
        for _ in range(3):
            with pytest.raises(RemoteFailure) as caught:
                client.predict({"words": [0]})
            assert str(caught.value) == UNFORESEEN
            assert client.predict({"words": [7]})["prediction"].tolist() == [7]
    assert "a request failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_every_answer_goes_to_its_own_client_while_many_ask() -> None:
    def many(url: str, number: int) -> int:
        right = 0
        with HttpClient(url, timeout=20) as client:
            for turn in range(40):
                milliseconds = 1 + (number * 7 + turn) % 9
                client.timeout = 20 if turn % 5 else 0.005
                try:
                    right += client.predict({"words": [milliseconds]})["prediction"].tolist() == [milliseconds]
                except (RequestTimeout, Overloaded):  # the latter when it was known that it would be late
                    right += 1
        return right

    with own_server(sleeper, 3) as url, kit.side_by_side(8) as run:
        assert [answer.result(60) for answer in [run(many, url, number) for number in range(8)]] == [40] * 8


def test_one_connection_serves_many_requests() -> None:
    with own_server(sleeper, 2) as url, http.opened(url) as connection:
        local = connection.getsockname()
        for milliseconds in range(1, 30):
            body = b'{"words": [%d], "fetch": ["prediction"]}' % milliseconds
            connection.sendall(http.message(body))
            assert http.receive_answer(connection) == b'{"prediction":[%d.0]}' % milliseconds
        assert connection.getsockname() == local
        assert urlsplit(url).port == connection.getpeername()[1]


def test_more_requests_than_may_wait_are_refused_at_once() -> None:
    with own_server(sleeper, 1, max_queue=2) as url, kit.side_by_side(4) as run, HttpClient(url, timeout=20) as client:
        body = b'{"words": [1500], "fetch": ["prediction"]}'
        waiting = [run(http.post, url, body) for _ in range(3)]
        assert not wait_until(waiting[0].done, 0.5)
        refused = http.post(url, body)
        assert "wait already" in http.assert_problem(refused, 503, "overloaded")
        assert int(refused.headers["Retry-After"]) > 0
        with pytest.raises(Overloaded):
            client.predict({"words": [1]})
        assert [answer.result(20).status for answer in waiting] == [200] * 3


def hanging_at(gate: threading.Event) -> Handler:
    """A handler that waits at a gate when the first word is 8."""

    def hang(request: Request, timeline: Timeline) -> Reply:
        if request.feed["words"].values[0] == 8:
            gate.wait(30)
        return sleeper(request, timeline)

    return hang


def test_a_thread_that_hangs_answers_at_its_deadline_and_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_watch, "LATE_SECONDS", 0.1)
    gate = threading.Event()
    try:
        with own_server(hanging_at(gate), 1) as url:
            response = http.post(url, X_Request_Timeout="0.3")
            assert "while a worker was at the request" in http.assert_problem(response, 504, "timeout")
            assert http.post(url, b'{"words": [1], "fetch": ["prediction"]}').status == 200
            gate.set()
            assert http.post(url, b'{"words": [2], "fetch": ["prediction"]}').status == 200
    finally:
        gate.set()


def test_a_thread_that_hung_takes_nothing_once_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_watch, "LATE_SECONDS", 0.1)
    gate = threading.Event()
    with own_server(hanging_at(gate), 1) as url, HttpClient(url, timeout=20) as client:
        assert http.post(url, X_Request_Timeout="0.2").status == 504
        assert client.predict({"words": [1]})["prediction"].tolist() == [1]
        gate.set()
        for _ in range(50):
            assert client.predict({"words": [1]})["prediction"].tolist() == [1]


def test_a_request_that_is_late_in_the_queue_is_told_while_all_are_busy() -> None:
    with own_server(sleeper, 1) as url, kit.side_by_side(1) as run:
        slow = run(http.post, url, b'{"words": [2000], "fetch": ["prediction"]}')
        assert not wait_until(slow.done, 0.3)
        late = http.post(url, b'{"words": [1], "fetch": ["prediction"]}', X_Request_Timeout="0.2")
        assert "waited for a worker" in http.assert_problem(late, 504, "timeout")
        assert not slow.done()
        assert slow.result(20).status == 200


def test_so_is_one_that_came_in_parts() -> None:
    message = http.message(b'{"words": [1], "fetch": ["prediction"]}', "X-Request-Timeout: 0.3\r\n")
    with (
        own_server(sleeper, 1) as url,
        kit.side_by_side(1) as run,
        http.opened(url) as connection,
        HttpClient(url, timeout=10) as client,
    ):
        slow = run(client.predict, {"words": [2000]})
        assert not wait_until(slow.done, 0.3)
        connection.sendall(message[:-5])
        assert not wait_until(slow.done, 0.1)
        connection.sendall(message[-5:])
        assert b"waited for a worker" in http.receive_answer(connection)
        assert not slow.done()
        slow.result(20)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_the_most_fields_that_a_request_may_have_hold_up_nobody(kind: str) -> None:
    fields = "".join(f"X-{number}: 1\r\n" for number in range(MAX_FIELDS - 3))
    chunk = f"{len(http.BODY):x}\r\n{http.BODY.decode()}\r\n0\r\n\r\n"
    lines = f"POST {http.PREDICTION} HTTP/1.1\r\nHost: x\r\nContent-Type: {http.JSON}\r\n{fields}"
    with http.server("--engine", "none", "--worker-kind", kind, "--server-threads", "1") as server:
        for last in (f"Transfer-Encoding: chunked\r\n\r\n{chunk}", "X-None: 1\r\n\r\n", f"{chunk}"):
            said = http.converse(server.endpoint, (lines + last).encode())
            assert http.status_of(said) == (200 if last.startswith("Transfer") else 400), said


def fault(*_: object) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("open_message", [lambda *_: None, fault], ids=["none", "fault"])
def test_a_passed_request_that_a_worker_cannot_read_holds_up_nobody(
    open_message: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    message = http.message(b'{"words": [1], "fetch": ["prediction"]}', "Expect: 100-continue\r\n")

    def ask(url: str) -> int:
        with http.opened(url) as connection:
            head, _, body = message.partition(b"\r\n\r\n")
            connection.sendall(head + b"\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 100")
            connection.sendall(body)
            return http.status_of(connection.recv(1000))

    with own_server(sleeper, 1) as url:
        with monkeypatch.context() as patched:
            patched.setattr(HttpCarrier, "open", open_message)
            assert [ask(url) for _ in range(3)] == [500] * 3
        assert ask(url) == 200
    assert "a worker could not read a request that was passed to it" in caplog.text


def test_where_there_is_no_epoll_the_server_works_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.PollSelector)
    monkeypatch.setattr(server, "make_ready_set", SelectorReadySet)
    with own_server(sleeper, 2) as url, kit.side_by_side(4) as run:
        answers = [run(calls, url, 5) for _ in range(4)]
        assert [len(answer.result(30)) for answer in answers] == [5] * 4
        assert http.ask(url, path="/health/ready").status == 200
