"""What is a plain socket's own: bytes that come in pieces or are none of ours, clients that do not read, and paths."""

from __future__ import annotations

import errno
import os
import random
import select
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.config import MAX_QUEUE
from imdb_serving.errors import RemoteFailure, RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.messages import Request, ServerInfo
from imdb_serving.server import connection as streams
from imdb_serving.server import server, stream_listener, work_watch
from imdb_serving.server.connection import StreamConnection
from imdb_serving.server.rpc import socket_listener
from imdb_serving.server.rpc.service import rpc_server as server_of
from imdb_serving.server.workers.ready_set import SelectorReadySet
from imdb_serving.server.workers.scoreboard import SHED
from imdb_serving.server.workers.unit import ProcessUnit
from imdb_serving.server_process import ServerProcess


@pytest.fixture(scope="module")
def socket_server() -> Iterator[ServerProcess]:
    """A server that answers at once, over plain sockets."""
    arguments = ["--engine", "none", "--server-threads", "2", "--endpoint", kit.SOCKET.endpoint()]
    with ServerProcess(arguments, ready_timeout=60) as server:
        yield server


def plain(server: ServerProcess) -> socket.socket:
    return kit.RawConnection(server.endpoint).socket


def everything(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    data = b""
    while more := connection.recv(1 << 16):
        data += more
    return data


def test_a_message_may_come_byte_by_byte_and_several_at_once(socket_server: ServerProcess) -> None:
    one, two, three = (kit.in_one_piece(kit.raw_message(id=number)) for number in (1, 2, 3))
    with kit.raw_socket(socket_server.endpoint) as opened:
        for byte in one:
            opened.socket.sendall(bytes([byte]))
        assert kit.read_answer(opened.recv_multipart())["id"] == 1
        opened.socket.sendall(one + two + three[:30])
        assert sorted(kit.read_answer(opened.recv_multipart())["id"] for _ in range(2)) == [1, 2]
        opened.socket.sendall(three[30:])
        assert kit.read_answer(opened.recv_multipart())["id"] == 3


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        bytes(1000),
        b"\xff" * 24,
        kit.VERSION.ljust(16, b"\0") + struct.pack("<II", 1 << 31, 0),
        kit.VERSION.ljust(16, b"\0") + struct.pack("<II", 100, 1 << 31),
    ],
    ids=["HTTP", "zeros", "ones", "header", "body"],
)
def test_what_is_no_message_is_told_and_the_connection_ends(socket_server: ServerProcess, garbage: bytes) -> None:
    with kit.raw_socket(socket_server.endpoint) as opened:
        opened.send_multipart(kit.raw_message(id=4))
        assert kit.read_answer(opened.recv_multipart())["id"] == 4
        opened.socket.sendall(garbage)
        failure = kit.read_answer(opened.recv_multipart())
        assert (failure["code"], failure["id"]) == ("bad_request", None)
        assert opened.socket.recv(1) == b""


def test_a_client_that_leaves_in_the_middle_of_a_message_leaves_nothing(socket_server: ServerProcess) -> None:
    descriptors = Path(f"/proc/{socket_server.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for end in (0, 1, 23, 24, 60, 100):
        with plain(socket_server) as connection:
            connection.sendall(kit.in_one_piece(kit.raw_message())[:end])
    assert wait_until(lambda: len(list(descriptors.iterdir())) == before)
    with connect(socket_server.endpoint) as client:
        assert client.hello().pid == socket_server.pid


def test_a_client_that_says_no_more_still_gets_its_answers() -> None:
    arguments = ["--engine", "simulated", "--service-time-ms", "200", "--server-threads", "1"]
    with ServerProcess([*arguments, "--endpoint", kit.SOCKET.endpoint()]) as server, plain(server) as opened:
        opened.sendall(kit.in_one_piece(kit.raw_message(id=1)) + kit.in_one_piece(kit.raw_message(id=2)))
        opened.shutdown(socket.SHUT_WR)
        assert everything(opened).count(b"answer") == 2


def test_garbage_does_not_disturb_a_good_client(socket_server: ServerProcess) -> None:
    chance = random.Random(7)
    pieces = [kit.in_one_piece(kit.raw_message(id=number)) for number in range(3)]

    def disturb() -> None:
        for _ in range(100):
            broken = bytearray(b"".join(pieces))
            for _ in range(chance.randint(0, 4)):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            with plain(socket_server) as connection:
                connection.sendall(broken[: chance.randrange(len(broken))])
                if chance.random() < 0.5:
                    connection.shutdown(socket.SHUT_WR)
                    everything(connection)

    kit.assert_undisturbed(socket_server, [disturb, disturb])


def test_a_client_that_does_not_read_costs_little_and_others_nothing(socket_server: ServerProcess) -> None:
    question = kit.in_one_piece(kit.raw_message()) * 50
    sent = 0
    with plain(socket_server) as greedy, connect(socket_server.endpoint, timeout=10) as client:
        greedy.settimeout(1.0)
        try:
            while sent < 1 << 28:
                sent += greedy.send(question)
        except TimeoutError:  # nobody takes any more
            pass
        assert sent < 1 << 28
        assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
        greedy.settimeout(10.0)
        whole = sent // (len(question) // 50)
        answers = 0
        left = b""
        while answers < whole:  # and all that was taken is answered, once it is read
            data = left + greedy.recv(1 << 20)
            answers += data.count(b"imdb-serving/1")
            left = data[data.rfind(b"imdb-serving/1") + 14 :][-13:]


def test_there_are_at_most_so_many_requests_of_a_client_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_listener, "MAX_UNDER_WAY", 4)
    gate = threading.Event()
    begun: list[int] = []

    def wait(request: Request, timeline: object) -> object:
        begun.append(request.samples)
        gate.wait(20)
        raise RemoteFailure("enough")

    three = {**kit.WORDS, "shape": [3], "lengths": [1, 1, 1]}
    with own_server(wait) as endpoint, kit.raw_socket(endpoint) as greedy, kit.raw_socket(endpoint) as good:
        for number in range(20):
            greedy.send_multipart(kit.raw_message(id=number))
        assert wait_until(lambda: bool(begun))
        take_turns(good)
        good.send_multipart([*kit.raw_message(samples=3, feed=[three])[:2], kit.ONE_WORD * 3])
        with kit.raw_socket(endpoint) as another:
            take_turns(another)
        gate.set()
        assert kit.read_answer(good.recv_multipart())["message"] == "enough"
        assert sorted(kit.read_answer(greedy.recv_multipart())["id"] for _ in range(20)) == list(range(20))
    assert len(begun) == 21
    assert begun.index(3) <= 4


def take_turns(connection: Any) -> None:
    """Have the server look for what has arrived, several times: each answer comes of a turn."""
    for number in range(20):
        connection.send_multipart([kit.VERSION, msgspec.msgpack.encode({"kind": "hello", "id": number})])
        assert kit.read_answer(connection.recv_multipart())["kind"] == "info"


def test_one_client_cannot_fill_the_queue_which_is_for_all() -> None:
    gate = threading.Event()

    def wait(request: object, timeline: object) -> object:
        gate.wait(20)
        raise RemoteFailure("enough")

    with own_server(wait) as endpoint, kit.raw_socket(endpoint) as greedy, kit.raw_socket(endpoint) as good:
        greedy.socket.sendall(kit.in_one_piece(kit.raw_message()) * 2 * MAX_QUEUE)
        take_turns(good)
        good.send_multipart(kit.raw_message())
        with kit.raw_socket(endpoint) as another:
            take_turns(another)
        gate.set()
        assert kit.read_answer(good.recv_multipart())["message"] == "enough"


def describe(protocol: str, limit: int) -> ServerInfo:
    return ServerInfo(protocol, "0", "test", "", 1, "thread", (), (), limit, os.getpid())


def the(handler: object) -> object:
    return handler


class own_server:  # noqa: N801 - used as a function
    """A server in this process with one worker, a thread."""

    def __init__(self, handler: object, processes: int = 0) -> None:
        self.server = server_of(kit.SOCKET.endpoint(), partial(the, handler), max(1, processes), processes, describe)  # type: ignore[arg-type,return-value]
        self.ready = threading.Event()
        self.endpoint = ""
        self.thread = threading.Thread(target=self.server.run, args=(self.tell,))

    def tell(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.ready.set()

    def __enter__(self) -> str:
        self.thread.start()
        assert self.ready.wait(60)
        return self.endpoint

    def __exit__(self, *error: object) -> None:
        self.server.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


def half(request: object, timeline: object) -> object:
    raise RemoteFailure("half")


def test_where_there_is_no_epoll_the_server_works_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.PollSelector)
    monkeypatch.setattr(server, "make_ready_set", SelectorReadySet)
    with own_server(half) as endpoint, connect(endpoint, timeout=10) as client:
        for _ in range(5):
            with pytest.raises(RemoteFailure, match="half"):
                client.predict(kit.SAMPLE)
        assert client.hello().engine == "test"


def test_a_process_takes_nothing_before_the_supervisor_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it took could be lost if it died: nobody would look at what it was at."""
    may_begin = threading.Event()
    flush = ProcessUnit.flush

    def flush_later(unit: ProcessUnit) -> None:
        if may_begin.is_set():
            flush(unit)

    monkeypatch.setattr(ProcessUnit, "flush", flush_later)
    with own_server(half, processes=1) as endpoint, connect(endpoint, timeout=0.5) as client:
        with pytest.raises(RequestTimeout):
            client.predict(kit.SAMPLE)
        may_begin.set()
        client.timeout = 20
        with pytest.raises(RemoteFailure, match="half"):
            client.predict(kit.SAMPLE)


def test_where_there_is_no_epoll_workers_are_threads_of_one_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(select, "epoll")
    running = own_server(half, processes=2)
    with running as endpoint, connect(endpoint, timeout=10) as client:
        with pytest.raises(RemoteFailure, match="half"):
            client.predict(kit.SAMPLE)
        assert (client.hello().worker_kind, client.hello().server_processes) == ("thread", 1)
        assert running.server.units.pids() == {}
        assert len(running.server.live.rows) == 2
    assert "this system has no epoll: the workers are threads of one process, not 2 processes" in caplog.text


def test_so_many_threads_may_hang_at_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(work_watch, "MAX_HUNG", 1)
    monkeypatch.setattr(work_watch, "LATE_SECONDS", 0.1)
    gate = threading.Event()

    def hang(request: object, timeline: object) -> object:
        gate.wait(20)
        raise RemoteFailure("enough")

    def replaced() -> int:
        return caplog.text.count("worker 0 hangs and is replaced")

    with own_server(hang) as endpoint, connect(endpoint, timeout=0.3) as client:
        for _ in range(2):
            with pytest.raises(RequestTimeout):
                client.predict(kit.SAMPLE)
            time.sleep(0.5)
        assert replaced() == 1  # once, and not the second as long as the first hangs
        gate.set()
        assert wait_until(lambda: can_be_asked(client))
        gate.clear()
        with pytest.raises(RequestTimeout):
            client.predict(kit.SAMPLE)
        assert wait_until(lambda: replaced() == 2)
        gate.set()


def can_be_asked(client: Any) -> bool:
    """Whether a worker is free."""
    try:
        client.predict(kit.SAMPLE)
    except RequestTimeout:
        return False
    except RemoteFailure as error:
        return str(error) == "enough"
    return False


def test_what_workers_gave_up_is_counted_with_what_the_supervisor_dropped() -> None:
    running = own_server(half)
    with running:
        running.server.queue.counts["shed"] = 1
        running.server.board.rows[0].cells[SHED] += 2
        assert running.server.dropped()["shed"] == 3


def test_a_half_message_does_not_keep_its_connection_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """However steadily its bytes come."""
    monkeypatch.setattr(streams, "MESSAGE_SECONDS", 0.5)
    with own_server(half) as endpoint, kit.raw_socket(endpoint) as stuck, kit.raw_socket(endpoint) as idle:
        for byte in kit.in_one_piece(kit.raw_message()):
            stuck.socket.sendall(bytes([byte]))
            if select.select([stuck.socket], [], [], 0.05)[0]:
                break
        answer = kit.read_answer(stuck.recv_multipart())
        assert (answer["id"], answer["code"]) == (None, "timeout")
        assert "did not arrive in time" in answer["message"]
        assert stuck.socket.recv(1) == b""
        idle.send_multipart(kit.raw_message())
        assert kit.read_answer(idle.recv_multipart())["message"] == "half"


def test_a_server_on_a_path_leaves_none_and_replaces_one_that_was_left(tmp_path: Path) -> None:
    path = tmp_path / "server"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
        gone.listen()
    arguments = ["--engine", "none", "--endpoint", f"socket+unix://{path}"]
    with ServerProcess(arguments) as server, connect(server.endpoint) as client:
        assert server.endpoint == f"socket+unix://{path}"
        assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
        code, errors = kit.serve_and_fail(*arguments)
        assert code == 2
        assert f"cannot listen at {path}: " in errors
        assert client.hello().engine == "none"
    assert not path.exists()


def test_what_is_at_a_path_and_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("words", encoding="utf-8")
    code, errors = kit.serve_and_fail("--engine", "none", "--endpoint", f"socket+unix://{path}")
    assert (code, path.read_text(encoding="utf-8")) == (2, "words")
    assert "choose another path" in errors


@pytest.mark.parametrize("endpoint", ["socket://127.0.0.1", "socket://127.0.0.1:99999", "socket+unix://"])
def test_an_endpoint_that_is_none_is_told_by_the_server(endpoint: str) -> None:
    code, errors = kit.serve_and_fail("--engine", "none", "--endpoint", endpoint)
    assert code == 2
    assert "expected socket://HOST:PORT or socket+unix:///PATH" in errors


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_address_of_version_6_is_written_in_brackets() -> None:
    try:
        with ServerProcess(["--engine", "none", "--endpoint", "socket://[::1]:0"]) as server:
            assert server.endpoint.startswith("socket://[::1]:")
            with connect(server.endpoint) as client:
                assert client.hello().engine == "none"
    except Exception as error:
        if "Cannot assign requested address" in str(error):
            pytest.skip("no IPv6 here")
        raise


def test_an_answer_larger_than_a_read_is_put_together(socket_server: ServerProcess) -> None:
    feeds = [{"words": np.arange(200), "label": 1}] * 2000
    with connect(socket_server.endpoint, timeout=30) as client:
        answers = client.predict_batch(feeds, ["prediction", "acc", "cost"])
        assert len(answers) == 2000
        assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]


class Strange:
    """A server that says whatever it likes, a client at a time."""

    def __init__(self, *words: bytes, close: bool = True) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.words, self.close = list(words), close
        self.endpoint = kit.SOCKET.endpoint(self.listener.getsockname()[1])
        self.kept: list[socket.socket] = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        for said in self.words:
            client, _ = self.listener.accept()
            client.recv(1 << 16)
            client.sendall(said)
            if self.close:
                client.close()
            self.kept.append(client)

    def __enter__(self) -> Strange:
        return self

    def __exit__(self, *error: object) -> None:
        self.listener.close()
        for client in self.kept:
            client.close()


ANSWER = {"kind": "answer", "id": 1, "fetch": [], "stages": [], "clock": ""}


def test_a_server_that_speaks_something_else_is_told() -> None:
    with (
        Strange(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 2) as strange,
        connect(strange.endpoint, timeout=5) as client,
        pytest.raises(RemoteFailure, match="unknown protocol"),
    ):
        client.hello()


def test_a_server_that_closes_in_the_middle_of_an_answer_is_told() -> None:
    with (
        Strange(kit.in_one_piece(kit.raw_message())[:40]) as strange,
        connect(strange.endpoint, timeout=5) as client,
        pytest.raises(ServerUnavailable, match="the connection to it was lost"),
    ):
        client.hello()


def test_a_server_that_stops_in_the_middle_of_an_answer_is_a_timeout() -> None:
    with (
        Strange(kit.in_one_piece(kit.raw_message())[:40], close=False) as strange,
        connect(strange.endpoint, timeout=0.3) as client,
        pytest.raises(RequestTimeout),
    ):
        client.hello()


def test_a_server_that_takes_no_bytes_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = kit.SOCKET.endpoint(listener.getsockname()[1])
        with connect(endpoint, timeout=0.3) as client, pytest.raises(RequestTimeout):
            client.predict_batch([{"words": np.arange(60_000)}] * 30)


def trickle(listener: socket.socket, ended: threading.Event) -> None:
    """Take a client's bytes so slowly that it is never done."""
    client, _ = listener.accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with client:
        while not ended.wait(0.05):
            client.recv(2048)


def test_a_server_that_takes_bytes_ever_so_slowly_is_a_timeout() -> None:
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener, kit.side_by_side(1) as run:
        run(trickle, listener, ended)
        endpoint = kit.SOCKET.endpoint(listener.getsockname()[1])
        with connect(endpoint, timeout=0.5) as client, pytest.raises(RequestTimeout):
            client.predict_batch([{"words": np.arange(60_000)}] * 30)
        ended.set()


class Pipe(StreamConnection):
    """A connection of which nothing is read."""

    wants_to_read = True
    is_idle = False
    begun_bytes = held_bytes = 0
    is_between_messages = True

    def feed(self, data: bytes) -> None:
        """Do nothing."""

    def refuse(self, error: ServingError) -> None:
        """Do nothing."""


def test_what_a_sender_leaves_behind_is_seen_by_who_settles_and_by_the_sender() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Pipe(ours)
        connection.watched = (True, False)
        connection.settle()
        assert connection.is_settled
        connection.send(bytes(1 << 24))  # more than fits
        assert not connection.is_settled
        connection.settle()  # by a thread that looked before the other sent
        assert not connection.is_settled


def test_a_server_that_ends_under_load_leaves_no_client_without_a_word() -> None:
    observed: list[str] = []
    for turn in range(12):  # on a busy machine all clients may find their connections closed
        if turn >= 3 and any("is shutting down" in words for words in observed):
            break
        with kit.launched(kit.SOCKET, "--engine", "none") as (process, ready), kit.side_by_side(4) as run:
            at_work = threading.Barrier(5)
            clients = [run(until_refused, kit.endpoint_of(ready), at_work) for _ in range(4)]
            at_work.wait(20)
            time.sleep(0.3)
            process.terminate()
            observed += [client.result(20) for client in clients]
            assert process.wait(10) == 0
    # One that asked after the server's last look at its connection finds it closed; all others are refused in words.
    # One that found its connection closed before it asked connects anew, and finds nobody.
    known = ("is shutting down", "the connection to it was lost", "Connection refused")
    assert [words for words in observed if not any(one in words for one in known)] == []
    assert any("is shutting down" in words for words in observed)


def until_refused(endpoint: str, at_work: threading.Barrier) -> str:
    with connect(endpoint, timeout=10) as client:
        client.predict(kit.SAMPLE)
        at_work.wait(20)
        try:
            while True:
                client.predict(kit.SAMPLE)
        except ServerUnavailable as error:
            return str(error)


class Short:
    """A socket of a system that is short of memory at first."""

    def __init__(self, connection: socket.socket, number: int) -> None:
        self.connection, self.number, self.times = connection, number, 1

    def __getattr__(self, name: str) -> Any:
        if name in {"send", "recv"} and self.times:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number))
        return getattr(self.connection, name)


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_a_shortage_of_memory_is_not_taken_for_the_clients_end(number: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Pipe(ours)
        connection.socket = Short(ours, number)  # type: ignore[assignment]
        connection.send(b"answer")
        assert (connection.closed, connection.wants_to_write) == (False, True)
        connection.flush()
        assert (theirs.recv(10), connection.wants_to_write) == (b"answer", False)
        connection.socket = Short(ours, number)  # type: ignore[assignment]
        theirs.sendall(b"request")
        assert (connection.arrived(), connection.closed) == (b"", False)
        assert connection.arrived() == b"request"


def test_a_connection_that_fails_before_it_is_accepted_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken for a lack of descriptors, and the listener rested for up to a second."""
    accept, failures = socket.socket.accept, [errno.ECONNABORTED, errno.EPROTO]

    def fail_first(self: socket.socket) -> Any:
        accepted = accept(self)
        if failures:
            accepted[0].close()
            raise OSError(failures.pop(), "it has gone")
        return accepted

    with own_server(half) as endpoint:
        monkeypatch.setattr(stream_listener, "SWEEP_SECONDS", 600.0)
        monkeypatch.setattr(socket.socket, "accept", fail_first)
        for _ in range(3):
            with connect(endpoint, 10) as client, suppress(ServerUnavailable):
                client.hello()
        assert failures == []
        with connect(endpoint, 10) as client:
            assert client.hello().engine == "test"
