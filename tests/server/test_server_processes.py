"""Workers of several processes take requests from one epoll; none idles while one waits, none is lost or doubled."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import http_kit as http
import msgspec
import numpy as np
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.errors import RemoteFailure, RequestTimeout
from imdb_serving.server_process import ServerProcess

SLEEPER = """
import signal, threading, time
from pathlib import Path
from imdb_serving.pipeline import Pipeline, imdb_pipeline
from imdb_serving.server.workers.handover import Handover
from imdb_serving.server.workers.ready_set import EpollReadySet
from imdb_serving.server.workers.worker import Worker

def stopped_before(method):
    def stopped(*arguments):
        try:
            Path("stop").unlink()
        except FileNotFoundError:
            pass
        else:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this thread, at once
        return method(*arguments)
    return stopped

class Sleep:
    name = "sleep"
    def run(self, work):
        time.sleep(int(work.reviews[0][0]) / 1000)

def make(engine, bundle):
    if Path("stops").exists():
        Worker._work = stopped_before(Worker._work)
    if Path("stops_taking").exists():
        Handover.take = stopped_before(Handover.take)
    if Path("stops_leaving").exists():
        EpollReadySet._arm = stopped_before(EpollReadySet._arm)
    ops = list(imdb_pipeline(engine, bundle).ops)
    return Pipeline([ops[0], Sleep(), *ops[1:]])
"""


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ServerProcess]]:
    """A function that starts a server, each of whose requests sleeps as its first word says (ms)."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:

        def start(workers: int, *more: str, scheme: str = "socket") -> ServerProcess:
            at = {"rpc": ["--endpoint", "tcp://127.0.0.1:0"],
                  "socket": ["--endpoint", "socket://127.0.0.1:0"], "http": ["--port", "0"],
                  "unix": ["--endpoint", f"socket+unix://{tmp_path}/server"]}[scheme]  # fmt: skip
            arguments = ["--engine", "none", "--server-threads", str(workers), "--pipeline", "sleeper:make"]
            command = "flask" if scheme == "http" else "serve"
            started = ServerProcess([*arguments, *more, *at], command=command, ready_timeout=60)
            return stack.enter_context(started)

        yield start


THREADS_OF_TWO = ("--worker-kind", "thread", "--processes", "2")
PROCESSES = ("--worker-kind", "process")
KINDS = pytest.mark.parametrize("kind", [THREADS_OF_TWO, PROCESSES], ids=["threads", "processes"])
SCHEMES = pytest.mark.parametrize("scheme", ["rpc", "socket", "http"])


def sleep_at(endpoint: str, milliseconds: int) -> float:
    with connect(endpoint, timeout=30) as client:
        client.predict({"words": [milliseconds]})
        return time.monotonic()


@SCHEMES
def test_threads_of_two_processes_are_as_many_workers_as_asked_for(serve, scheme: str) -> None:
    server = serve(3, *THREADS_OF_TWO, scheme=scheme)
    assert len(kit.workers(server.pid)) == 2
    with connect(server.endpoint) as client:
        info = client.hello()
    assert (info.server_processes, info.server_threads, info.workers_ready, info.worker_kind) == (2, 3, 3, "thread")


@KINDS
@pytest.mark.parametrize("scheme", ["rpc", "socket", "unix", "http"])
def test_no_worker_idles_while_a_request_waits(serve, kind: tuple[str, ...], scheme: str) -> None:
    server = serve(2, *kind, scheme=scheme)
    with kit.side_by_side(8) as run:
        slow = run(sleep_at, server.endpoint, 4000)
        assert not wait_until(slow.done, 0.3)
        for answer in [run(sleep_at, server.endpoint, 20) for _ in range(6)]:
            answer.result(20)
        assert not slow.done()


@KINDS
@SCHEMES
def test_hello_is_answered_and_deadlines_hold_while_all_are_busy(serve, scheme: str, kind: tuple[str, ...]) -> None:
    server = serve(2, *kind, scheme=scheme)
    with kit.side_by_side(2) as run, connect(server.endpoint, timeout=20) as client:
        slow = [run(sleep_at, server.endpoint, 3000) for _ in range(2)]
        assert not wait_until(lambda: any(one.done() for one in slow), 0.3)
        assert client.hello().workers_ready == 2
        assert deadline_passes(server.endpoint, 0.2) == "the deadline passed while the request waited for a worker"
        assert not any(one.done() for one in slow)


def deadline_passes(endpoint: str, seconds: float, milliseconds: int = 1, **fields: str) -> str:
    """What the server itself says of a request whose client gives it so little time; it waits longer for the word."""
    if endpoint.startswith("http"):
        body = b'{"words": [%d], "fetch": ["prediction"]}' % milliseconds
        return http.assert_problem(http.post(endpoint, body, X_Request_Timeout=str(seconds), **fields), 504, "timeout")
    with kit.raw_socket(endpoint) as raw:
        raw.send_multipart([*kit.raw_message(deadline_ms=1000 * seconds)[:2], struct.pack("<q", milliseconds)])
        answer = kit.read_answer(raw.recv_multipart())
        assert answer["code"] == "timeout"
        message: str = answer["message"]
        return message


@SCHEMES
def test_a_request_past_its_deadline_is_told_while_its_worker_is_at_it_and_counts_once(serve, scheme: str) -> None:
    server = serve(2, *PROCESSES, "--metrics-port", "0", scheme=scheme)
    for _ in range(2):
        told = deadline_passes(server.endpoint, 0.3, 1500)
        assert told == "the deadline passed while a worker was at the request"
    time.sleep(1.6)
    with connect(server.endpoint) as client:
        client.predict({"words": [1]})
        url = client.hello().metrics

    def counted(outcome: str, count: int) -> bool:
        with urlopen(url, timeout=10) as response:
            return f'requests_total{{outcome="{outcome}"}} {count}.0' in response.read().decode()

    assert wait_until(lambda: counted("answered", 1) and counted("timeout", 2))


@KINDS
@pytest.mark.parametrize(("scheme", "passed"), [("socket", False), ("http", False), ("http", True)])
def test_a_process_stopped_before_it_begins_holds_no_request_past_its_deadline(
    serve, scheme: str, passed: bool, kind: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "stops").touch()
    server = serve(2, *kind, scheme=scheme)
    stopping = tmp_path / "stop"
    more = {"Connection": "close"} if passed else {}
    for milliseconds in (1, 2, 3):
        sleep_at(server.endpoint, 1)
        stopping.touch()
        begun = time.monotonic()
        told = deadline_passes(server.endpoint, 0.5, milliseconds, **more)
        assert told.startswith("the deadline passed ")
        assert not stopping.exists()
        assert time.monotonic() - begun < 30  # and not when the client gives up
        wait_until(lambda: len(kit.workers(server.pid)) == 2, 20)


def test_a_process_stopped_before_it_takes_what_was_passed_leaves_it_to_another(serve, tmp_path: Path) -> None:
    """And not only when it is replaced, two seconds later: until then all that is passed would wait."""
    (tmp_path / "stops_taking").touch()
    server = serve(2, *PROCESSES, scheme="rpc")
    before = kit.workers(server.pid)
    stopping = tmp_path / "stop"
    stopping.touch()
    with connect(server.endpoint, timeout=20) as client:
        client.predict({"words": [1]})
        assert not stopping.exists()
        client.predict({"words": [1]})
        assert kit.workers(server.pid) == before


@pytest.mark.parametrize("scheme", ["socket", "http"])
def test_a_process_stopped_when_it_has_answered_is_replaced(serve, scheme: str, tmp_path: Path) -> None:
    (tmp_path / "stops_leaving").touch()
    server = serve(2, *PROCESSES, scheme=scheme)
    with connect(server.endpoint, timeout=30) as client:
        client.predict({"words": [1]})
        before = kit.workers(server.pid)
        (tmp_path / "stop").touch()
        client.predict({"words": [1]})
        client.predict({"words": [1]})  # of this connection nobody else can take anything meanwhile
        assert wait_until(lambda: len(kit.workers(server.pid) - before) == 1, 30)


@SCHEMES
def test_a_request_that_hung_two_processes_is_refused_for_a_while(serve, scheme: str) -> None:
    server = serve(2, *PROCESSES, scheme=scheme)
    with connect(server.endpoint, timeout=0.5) as client, connect(server.endpoint, timeout=20) as other:
        for _ in range(2):
            before = kit.workers(server.pid)
            with pytest.raises(RequestTimeout):
                client.predict({"words": [60_000]})
            assert wait_until(lambda before=before: len(kit.workers(server.pid) - before) == 1, 30)
        assert other.predict({"words": [1]})
        with pytest.raises(RemoteFailure, match="it is not given to another for"):
            other.predict({"words": [60_000]})
        assert other.predict({"words": [1]})


@pytest.mark.parametrize("words", [1, 60_000], ids=["small", "large"])
@SCHEMES
def test_all_requests_of_a_killed_process_are_answered_by_another(serve, scheme: str, words: int) -> None:
    server = serve(4, *THREADS_OF_TWO, scheme=scheme)
    before = kit.workers(server.pid)

    def ask() -> None:
        with connect(server.endpoint, timeout=60) as client:
            client.predict({"words": np.array([800] * words)})

    with kit.side_by_side(4) as run:
        answers = [run(ask) for _ in range(4)]
        time.sleep(0.4)
        os.kill(min(before), signal.SIGKILL)
        for answer in answers:
            answer.result(60)
    assert wait_until(lambda: len(kit.workers(server.pid) - {min(before)}) == 2, 30)


@SCHEMES
def test_numbers_of_connections_are_used_again_in_all_processes(serve, scheme: str) -> None:
    server = serve(3, *PROCESSES, scheme=scheme)
    everybody = [server.pid, *kit.workers(server.pid)]

    def held() -> list[int]:
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in everybody]

    sleep_at(server.endpoint, 0)
    before = held()
    for _ in range(5):
        with kit.side_by_side(8) as run:
            for answer in [run(sleep_at, server.endpoint, number % 3) for number in range(60)]:
                answer.result(30)
    assert wait_until(lambda: all(now <= most for now, most in zip(held(), before, strict=True)), 10), (held(), before)


FIRST_WORDS = itertools.count(0, 1_000_000)


class Counting:
    """A client that asks one thing after another, and sees to it that each is answered once."""

    def __init__(self, endpoint: str) -> None:
        where = urlsplit(endpoint)
        self._endpoint = endpoint
        self.answered, self.faults = 0, [""]
        self.over = threading.Event()
        self.socket: Any = None
        if where.scheme != "tcp":
            self.socket = socket.create_connection((where.hostname, where.port), 20)
        ask = {"http": self._ask_http, "tcp": self._ask_zeromq}.get(where.scheme, self._ask)
        self.thread = threading.Thread(target=self._run, args=(ask,), daemon=True)
        self._read = b""
        self._first = next(FIRST_WORDS)

    def _more(self) -> None:
        more = self.socket.recv(1 << 16)
        assert more, "the connection was closed"
        self._read += more

    def _exactly(self, count: int) -> bytes:
        while len(self._read) < count:
            self._more()
        data, self._read = self._read[:count], self._read[count:]
        return data

    def _ask(self, number: int) -> None:
        message = kit.raw_message(id=number, deadline_ms=30_000)
        self.socket.sendall(kit.in_one_piece([*message[:2], bytes(8)]))
        header, body = struct.unpack("<16xII", self._exactly(24))
        answer = msgspec.msgpack.decode(self._exactly(header + -header % 8)[:header])
        self._exactly(body)
        assert (answer["id"], answer["kind"]) == (number, "answer"), answer

    def _ask_http(self, number: int) -> None:
        # No other has the same body: one that was at two dying workers is refused for a while, as it should be.
        self.socket.sendall(http.message(b'{"words": [0, %d], "fetch": ["prediction"]}' % (self._first + number)))
        while (end := self._read.find(b"\r\n\r\n")) < 0:
            self._more()
        head = self._exactly(end + 4)
        assert head.startswith(b"HTTP/1.1 200"), head
        assert self._exactly(24) == b'{"prediction":[0.5,0.5]}'

    def _ask_zeromq(self, number: int) -> None:
        message = kit.raw_message(id=number, deadline_ms=30_000)
        self.socket.send_multipart([*message[:2], bytes(8)])
        answer = kit.read_answer(self.socket.recv_multipart())
        assert (answer["id"], answer["kind"]) == (number, "answer"), answer

    def _run(self, ask: Callable[[int], None]) -> None:
        with kit.raw_socket(self._endpoint) if self.socket is None else self.socket as self.socket:
            self._ask_on(ask)

    def _ask_on(self, ask: Callable[[int], None]) -> None:
        try:
            while not self.over.is_set():
                ask(self.answered + 1)
                assert self._read == b""
                self.answered += 1
        except Exception as error:
            self.faults.append(f"behind {self.answered} answers: {error!r}")


def faults(clients: list[Counting]) -> list[str]:
    return [fault for client in clients for fault in client.faults if fault]


def have_more(clients: list[Counting], count: int) -> bool:
    """Wait until each has more than so many answers more."""
    before = [client.answered for client in clients]
    return wait_until(lambda: all(c.answered > n + count for c, n in zip(clients, before, strict=True)), 30)


def killed_at_random(endpoint: str, pid: int, kills: int) -> None:
    """Kill workers that answer at once, so that some die between an answer and the next request."""
    chance = random.Random(5)
    clients = [Counting(endpoint) for _ in range(6)]
    for client in clients:
        client.thread.start()
    for _ in range(kills):
        time.sleep(chance.uniform(0.02, 0.2))
        assert have_more(clients, 0), faults(clients)  # so that no request is at two workers that are killed
        if found := sorted(kit.workers(pid)):
            with suppress(ProcessLookupError):  # it has ended by itself meanwhile
                os.kill(chance.choice(found), signal.SIGKILL)
    all_go_on = have_more(clients, 20)
    for client in clients:
        client.over.set()
        client.thread.join(30)
    assert faults(clients) == []
    assert all_go_on


@pytest.mark.parametrize("kills", [12, pytest.param(400, marks=[pytest.mark.slow, pytest.mark.timeout(400)])])
@KINDS
@SCHEMES
def test_no_request_is_lost_or_answered_twice_when_processes_are_killed(
    serve, scheme: str, kind: tuple[str, ...], kills: int
) -> None:
    server = serve(3, *kind, scheme=scheme)
    killed_at_random(server.endpoint, server.pid, kills)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--processes", "3", "--server-threads", "2", "--worker-kind", "thread"], "3 need as many workers, got 2"),
        (["--processes", "2", "--server-threads", "4", "--worker-kind", "process"], "leave --processes out"),
    ],
)
def test_a_number_of_processes_that_does_not_fit_is_told(arguments: list[str], words: str) -> None:
    at = [] if "--endpoint" in arguments else ["--endpoint", "socket://127.0.0.1:0"]
    code, errors = kit.serve_and_fail("--engine", "none", *arguments, *at)
    assert code == 2
    assert words in errors
