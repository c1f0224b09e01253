"""Exactly N workers, none idle while a request waits, and one that dies is replaced."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import numpy as np
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.errors import UNFORESEEN, RemoteFailure, ServerStartError, ServerUnavailable
from imdb_serving.messages import Handler, Reply, Request, ServerInfo
from imdb_serving.server.rpc.service import rpc_server
from imdb_serving.timing import Timeline


def timed_predict(endpoint: str) -> float:
    """Predict once; when the answer came."""
    with connect(endpoint, timeout=20) as client:
        client.predict(kit.SAMPLE)
        return time.monotonic()


def simulated(milliseconds: int, workers: int, kind: str) -> list[str]:
    return [
        "--engine", "simulated", "--service-time-ms", str(milliseconds), "--server-threads", str(workers),
        "--worker-kind", kind,
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 3])
def test_there_are_as_many_worker_processes_as_asked_for(start_server, count: int) -> None:
    server = start_server("--engine", "none", "--worker-kind", "process", "--server-threads", str(count))
    assert len(kit.workers(server.pid)) == count


def test_threads_need_no_processes(start_server) -> None:
    server = start_server("--engine", "none", "--processes", "1")
    assert kit.descendants(server.pid) == set()


def test_the_request_of_a_killed_worker_is_given_to_another_one(start_server) -> None:
    server = start_server(*simulated(1000, 2, "process"))
    before = kit.workers(server.pid)
    with kit.side_by_side(2) as run:
        answers = [run(timed_predict, server.endpoint) for _ in range(2)]
        time.sleep(0.5)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        assert all(answer.result(30) for answer in answers)
    assert wait_until(lambda: len(kit.workers(server.pid)) == 2)
    assert killed not in kit.workers(server.pid)
    assert kit.workers(server.pid) & before == before - {killed}
    with kit.side_by_side(2) as run:
        assert all(answer.result() for answer in [run(timed_predict, server.endpoint) for _ in range(2)])


def test_a_request_that_two_workers_died_at_fails_long_before_its_deadline(start_server) -> None:
    server = start_server(*simulated(60_000, 1, "process"))
    with kit.side_by_side(1) as run, connect(server.endpoint, timeout=120) as client:
        answer = run(client.predict, kit.SAMPLE)
        assert not wait_until(answer.done, 0.4)
        (worker,) = kit.workers(server.pid)
        os.kill(worker, signal.SIGKILL)
        assert wait_until(lambda: len(kit.workers(server.pid) - {worker}) == 1, 30)
        assert not wait_until(answer.done, 1)
        os.kill(*kit.workers(server.pid) - {worker}, signal.SIGKILL)
        error = answer.exception(timeout=30)
        assert isinstance(error, RemoteFailure)
        assert "two workers died while working on this request" in str(error)


def test_idle_workers_that_are_killed_are_replaced(start_server) -> None:
    server = start_server("--engine", "none", "--worker-kind", "process", "--server-threads", "2")
    before = kit.workers(server.pid)
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    assert wait_until(lambda: len(kit.workers(server.pid) - before) == 2)
    assert timed_predict(server.endpoint)


def describe(protocol: str, limit: int) -> ServerInfo:
    return ServerInfo(protocol, "0", "test", "", 2, "thread", (), (), limit, os.getpid())


OwnServer = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def own_server(carrier: kit.Carrier) -> OwnServer:
    """A function that runs a server in this process, its workers threads with one's own handler."""
    return partial(_own_server, carrier.endpoint())


@contextmanager
def _own_server(at: str, make_handler: Callable[[], Handler], workers: int) -> Iterator[str]:
    server = rpc_server(at, make_handler, workers, 0, describe)
    endpoints: list[str] = []
    ready = threading.Event()
    runner = threading.Thread(target=server.run, args=(lambda endpoint: (endpoints.append(endpoint), ready.set()),))
    runner.start()
    try:
        assert ready.wait(60)
        yield endpoints[0]
    finally:
        server.stop()
        runner.join(20)
    assert not runner.is_alive()


def sleeper(request: Request, timeline: Timeline) -> Reply:
    """Sleep as many milliseconds as the first word id says, and return the worker's name as a number."""
    with timeline.stage("op0"):
        time.sleep(int(request.feed["words"].values[0]) / 1000)
    worker = int(threading.current_thread().name.removeprefix("server-thread-"))
    return Reply({"prediction": np.full((1, 1), worker, np.float32)}, timeline.stages)


def sleep_at(endpoint: str, milliseconds: int) -> float:
    with connect(endpoint, timeout=20) as client:
        client.predict({"words": [milliseconds]})
        return time.monotonic()


def test_a_slow_request_holds_up_nobody_while_a_worker_is_free(own_server: OwnServer) -> None:
    with own_server(lambda: sleeper, 2) as endpoint, kit.side_by_side(7) as run:
        slow = run(sleep_at, endpoint, 3000)
        assert not wait_until(slow.done, 0.2)
        for answer in [run(sleep_at, endpoint, 20) for _ in range(6)]:
            answer.result(20)
        assert not slow.done()


def test_a_request_that_waits_goes_to_the_first_worker_that_is_free(own_server: OwnServer) -> None:
    with own_server(lambda: sleeper, 2) as endpoint, kit.side_by_side(3) as run:
        slow = run(sleep_at, endpoint, 3000)
        assert not wait_until(slow.done, 0.1)
        run(sleep_at, endpoint, 300)
        run(sleep_at, endpoint, 10).result(20)
        assert not slow.done()


def test_each_worker_has_a_handler_of_its_own(own_server: OwnServer) -> None:
    made: list[object] = []

    def make_handler() -> Handler:
        made.append(object())
        return sleeper

    with own_server(make_handler, 3) as endpoint:
        assert len(made) == 3
        for _ in range(5):
            sleep_at(endpoint, 0)
    assert len(made) == 3


def test_a_fault_in_a_handler_is_a_remote_failure_and_the_worker_goes_on(
    own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    def divide(request: Request, timeline: Timeline) -> Reply:
        1 / int(request.feed["words"].values[0])
        return sleeper(request, timeline)

    with own_server(lambda: divide, 1) as endpoint, connect(endpoint, timeout=10) as client:
        with pytest.raises(RemoteFailure) as caught:
            client.predict({"words": [0]})
        assert str(caught.value) == UNFORESEEN
        assert client.predict({"words": [1]})["prediction"].tolist() == [0.0]
    assert "request 1 failed" in caplog.text
    assert "ZeroDivisionError: division by zero" in caplog.text


def test_a_worker_that_cannot_start_says_why(carrier: kit.Carrier) -> None:
    def refuse() -> Handler:
        raise FileNotFoundError("no weights")

    server = rpc_server(carrier.endpoint(), refuse, 2, 0, describe)
    with pytest.raises(ServerStartError, match="could not start: FileNotFoundError: no weights"):
        server.run(lambda endpoint: pytest.fail(f"{endpoint} cannot be ready"))


def test_a_worker_that_starts_too_slowly_is_given_up(carrier: kit.Carrier) -> None:
    def dawdle() -> Handler:
        time.sleep(0.5)
        return sleeper

    server = rpc_server(carrier.endpoint(), dawdle, 1, 0, describe, start_timeout=0.1)
    with pytest.raises(ServerStartError, match="worker 0 was not ready in time"):
        server.run(lambda endpoint: pytest.fail(f"{endpoint} cannot be ready"))


def test_a_hung_worker_is_a_timeout_and_is_replaced(start_server) -> None:
    server = start_server("--engine", "none", "--worker-kind", "process", "--server-threads", "1")
    (hung,) = kit.workers(server.pid)
    os.kill(hung, signal.SIGSTOP)
    with kit.raw_socket(server.endpoint) as dealer:
        dealer.send_multipart(kit.raw_message(deadline_ms=300))
        answer = kit.read_answer(dealer.recv_multipart())
    assert answer["code"] == "timeout"
    assert answer["message"].startswith("the deadline passed ")  # where, depends on where the worker was stopped
    assert timed_predict(server.endpoint)
    assert hung not in kit.workers(server.pid)


def test_a_worker_that_takes_no_large_request_blocks_neither_hello_nor_the_end(start_server) -> None:
    server = start_server("--engine", "none", "--worker-kind", "process", "--server-threads", "1")
    (hung,) = kit.workers(server.pid)
    os.kill(hung, signal.SIGSTOP)
    words = {"name": "words", "dtype": "int64", "shape": [1 << 18], "lengths": [1 << 16] * 4}
    with kit.raw_socket(server.endpoint) as dealer, connect(server.endpoint, timeout=5) as client:
        version, header, _ = kit.raw_message(deadline_ms=3_000, samples=4, feed=[words])
        dealer.send_multipart([version, header, bytes(1 << 21)])
        time.sleep(0.3)
        assert client.hello().pid == server.pid
        process = server._process
        process.terminate()
        assert process.wait(30) == 0
    assert wait_until(lambda: not kit.alive({hung}))


def test_hello_is_answered_while_all_workers_are_busy(start_server) -> None:
    server = start_server(*simulated(3000, 1, "thread"))
    with kit.side_by_side(1) as run, connect(server.endpoint, timeout=20) as client:
        answer = run(timed_predict, server.endpoint)
        assert not wait_until(answer.done, 0.3)
        assert client.hello().server_threads == 1
        assert not answer.done()


def test_a_client_learns_of_a_lost_connection_at_once(start_server) -> None:
    server = start_server(*simulated(20_000, 1, "thread"))
    with kit.side_by_side(1) as run, connect(server.endpoint, timeout=60) as client:
        answer = run(client.predict, kit.SAMPLE)
        assert not wait_until(answer.done, 0.3)
        server._process.kill()
        error = answer.exception(timeout=20)
    assert isinstance(error, ServerUnavailable)
    assert "the connection to it was lost" in str(error)
