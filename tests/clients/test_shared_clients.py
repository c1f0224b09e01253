"""Clients that a fork or a second thread shares: nobody ever gets another's answer."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic, sleep

import numpy as np
import pytest

from imdb_serving.clients.base import Client, ConnectedClient
from imdb_serving.clients.connect import connect
from imdb_serving.errors import BadRequest, ServingError
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.server_process import ServerProcess

MODES = ["rpc", "socket", "flask"]
REQUESTS = 100


@pytest.fixture(scope="module", params=MODES)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with ServerProcess.of_mode(request.param, ["--engine", "none", "--server-threads", "2"]) as server:
        yield server


@pytest.fixture(scope="module", params=MODES)
def slow(request: pytest.FixtureRequest) -> Iterator[str]:
    arguments = ["--engine", "simulated", "--service-time-ms", "500", "--server-threads", "1"]
    with ServerProcess.of_mode(request.param, arguments) as server:
        yield server.endpoint


def ask(client: Client, samples: int, requests: int = REQUESTS) -> None:
    """Ask for so many samples a request; another's answer would have another shape."""
    for _ in range(requests):
        answers = client.predict_batch([{"words": [8, 233, 52]}] * samples, ["prediction"])
        assert [each["prediction"].shape for each in answers] == [(2,)] * samples


@contextmanager
def forked(work: Callable[[int], None], children: int = 3) -> Iterator[None]:
    """Processes forked from this one that do so while the block runs; each must end well, within 60 seconds."""
    pids = []
    for number in range(children):
        pid = os.fork()
        if pid == 0:
            try:
                work(number)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        pids.append(pid)
    try:
        yield
        until = monotonic() + 60
        for pid in pids:
            while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
                assert monotonic() < until, "a forked process hangs"
                sleep(0.01)
            assert os.waitstatus_to_exitcode(ended[1]) == 0
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue


@contextmanager
def asking(client: Client) -> Iterator[None]:
    """Another thread that waits for an answer when the block begins, and has it when the block has ended."""
    client.hello()
    thread = threading.Thread(target=ask, args=(client, 1, 1))
    thread.start()
    sleep(0.1)
    yield
    thread.join()


@pytest.mark.parametrize("balanced", [False, True], ids=["one", "balanced"])
def test_a_fork_has_a_connection_of_its_own(server: ServerProcess, balanced: bool) -> None:
    endpoints = [server.endpoint] * 2 if balanced else server.endpoint
    with connect(endpoints, timeout=20) as client:
        ask(client, 1, 3)
        with forked(lambda number: ask(client, number + 2)):
            ask(client, 1)
        ask(client, 1, 3)


def test_what_a_fork_closes_stays_open_for_its_parent(server: ServerProcess) -> None:
    with connect(server.endpoint, timeout=20) as client:
        ask(client, 1, 3)
        with forked(lambda _: client.close(), 1):
            pass
        assert not client.is_lost()
        ask(client, 1, 3)


def test_a_fork_of_a_fork_works_too(server: ServerProcess) -> None:
    with connect(server.endpoint, timeout=20) as client:

        def again(_: int) -> None:
            ask(client, 2, 3)
            with forked(lambda _: ask(client, 3, 3), 1):
                ask(client, 2, 3)

        ask(client, 1, 3)
        with forked(again, 1):
            ask(client, 1)


def test_a_fork_while_another_thread_asks_is_not_held_up(slow: str) -> None:
    """The thread that uses the client is not there in the fork, and what it holds there must hold up nobody."""
    with connect(slow, timeout=20) as client, asking(client), forked(lambda _: ask(client, 2, 1), 1):
        pass


def test_a_fork_that_leaves_the_block_of_a_server_does_not_end_it() -> None:
    def leave(_: int) -> None:
        started.stop()

    with ServerProcess(["--engine", "none"]) as started:
        with forked(leave, 1):
            pass
        with connect(started.endpoint) as client:
            ask(client, 1, 3)


def test_a_client_that_another_thread_uses_says_so(slow: str) -> None:
    with connect(slow, timeout=20) as client:
        with asking(client):
            for use in (lambda: ask(client, 2, 1), client.hello, client.is_lost):
                with pytest.raises(BadRequest, match="a client for each thread"):
                    use()
        ask(client, 1, 1)


def test_a_client_that_another_thread_closes_answers_first(slow: str) -> None:
    client = connect(slow, timeout=20)
    with asking(client):
        client.close()


class WaitingClient(ConnectedClient):
    """A client of no server, whose calls wait until they may be answered."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answer, self.closed = threading.Event(), threading.Event(), threading.Event()

    def _call(self, request: Request) -> Reply:
        self.asked.set()
        assert self.answer.wait(20)
        return Reply({"prediction": np.zeros((1, 2), np.float32)}, [])

    def _hello(self) -> ServerInfo:
        raise NotImplementedError

    def _close(self) -> None:
        self.closed.set()

    def _after_fork(self) -> None:
        raise NotImplementedError


def test_a_connection_is_closed_when_the_call_has_its_answer() -> None:
    client = WaitingClient()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(client.predict, {"words": [8]})
        assert client.asked.wait(20)
        client.close()
        assert not client.closed.is_set()
        client.answer.set()
        assert answer.result(20)["prediction"].tolist() == [0, 0]
    assert client.closed.is_set()


def test_many_threads_at_one_client_get_their_own_answers_or_an_error(server: ServerProcess) -> None:
    wrong: list[BaseException] = []

    def hammer(samples: int) -> None:
        for _ in range(REQUESTS):
            try:
                ask(client, samples, 1)
            except BadRequest:
                continue
            except (ServingError, AssertionError) as error:
                wrong.append(error)

    with connect(server.endpoint, timeout=20) as client:
        threads = [threading.Thread(target=hammer, args=(number + 1,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong
        ask(client, 1, 1)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_clients_may_be_shared(server: ServerProcess) -> None:
    if not server.endpoint.startswith("http"):
        pytest.skip("curl speaks HTTP alone")
    with connect(server.endpoint, timeout=20, http_client="curl") as client:
        threads = [threading.Thread(target=ask, args=(client, number + 1, 3)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
