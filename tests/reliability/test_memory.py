"""Memory stays bounded: messages that never end, requests that wait, answers that nobody reads, and long use."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import http_kit as http
import load_kit as load
import msgspec
import psutil
import pytest
import rpc_kit as kit
import zmq

from imdb_serving.clients.connect import connect
from imdb_serving.server import stream_listener
from imdb_serving.server_process import ServerProcess

MIB = 1 << 20
SLOW = ["--engine", "simulated", "--service-time-ms", "400", "--server-threads", "1", "--worker-kind", "thread"]
NULL = ["--engine", "none", "--server-threads", "2"]


class Peak:
    """The most memory that a process held while the block lasts, beyond what it held before."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.before = self.most = self.process.memory_info().rss
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self.over.wait(0.02):
            self.most = max(self.most, self.process.memory_info().rss)

    @property
    def growth(self) -> float:
        """In MiB."""
        return (self.most - self.before) / MIB


@contextmanager
def peak(server: ServerProcess) -> Iterator[Peak]:
    found = Peak(server.pid)
    found.thread.start()
    try:
        yield found
    finally:
        found.over.set()
        found.thread.join()


def begin(mode: str, endpoint: str, stack: ExitStack, size: int, part: int) -> Any:
    """Send the first `part` bytes of a message that says it has `size`, on a connection that stays open."""
    if mode == "rpc":
        dealer = stack.enter_context(kit.raw_socket(endpoint))
        pieces = part // (4 * MIB)
        for _ in range(pieces):  # ZeroMQ sends whole messages only, but goes on with frames before the last
            dealer.send(bytes(4 * MIB), zmq.SNDMORE | zmq.NOBLOCK)
        return dealer
    head = struct.pack("<16sII", kit.VERSION, 100, size)
    if mode == "flask":
        head = http.message(b"", method="POST").replace(b"Content-Length: 0", b"Content-Length: %d" % size)
    address = endpoint.rpartition("//")[2].rpartition(":")
    connection = stack.enter_context(socket.create_connection((address[0], int(address[2])), 10))
    connection.setblocking(False)
    data, until = head + bytes(part), time.monotonic() + 5
    while data and time.monotonic() < until:
        try:
            data = data[connection.send(data) :]
        except BlockingIOError:
            time.sleep(0.002)
        except OSError:
            break  # refused
    return connection


@pytest.mark.slow
@pytest.mark.parametrize("mode", load.MODES)
def test_messages_that_never_end_cost_bounded_memory_and_others_nothing(mode: str) -> None:
    with ServerProcess.of_mode(mode, NULL) as server, ExitStack() as stack, connect(server.endpoint, 30) as client:
        client.predict(kit.SAMPLE)
        with peak(server) as memory:
            for _ in range(60):
                begin(mode, server.endpoint, stack, 15 * MIB, 12 * MIB)
                assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
            time.sleep(1)
        assert memory.growth < 450, memory.growth
        assert client.predict({"words": [8] * 60_000})["prediction"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("mode", ["socket", "flask"])
def test_too_much_that_has_begun_to_arrive_is_refused(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_listener, "MAX_HELD_BYTES", 300_000)
    with load.in_process(mode) as endpoint, ExitStack() as stack:
        begun = [begin(mode, endpoint, stack, 200_000, 150_000) for _ in range(3)]
        (refused, *_), _, _ = select.select(begun, [], [], 20)  # whichever the server read last
        assert stream_listener.TOO_MUCH_HELD.encode() in last_words(refused)
        with connect(endpoint, 10) as client:
            assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
        for connection in begun:
            connection.close()
        with connect(endpoint, 10) as client:
            client.predict({"words": [8] * 30_000})


def last_words(connection: socket.socket) -> bytes:
    """What a connection says until it ends."""
    connection.settimeout(10)
    said = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            said += part
    return said


@pytest.mark.slow
@pytest.mark.parametrize("mode", load.MODES)
def test_large_requests_that_wait_cost_bounded_memory(mode: str) -> None:
    words = [8] * (1 << 16)
    sample = {"words": words}
    with ServerProcess.of_mode(mode, SLOW) as server, peak(server) as memory, kit.side_by_side(60) as run:

        def ask(_: int) -> str:
            with connect(server.endpoint, 3) as client:
                try:
                    client.predict_batch([sample] * 15)  # 8 MB over RPC
                except Exception as error:
                    return type(error).__name__
                return "answered"

        outcomes = [run(ask, number) for number in range(300)]
        assert {outcome.result(200) for outcome in outcomes} <= {"answered", "Overloaded", "RequestTimeout"}
    assert memory.growth < 900, memory.growth


def test_clients_that_do_not_read_large_answers_hold_up_nobody() -> None:
    body = msgspec.json.encode({"words": [[1]] * 4096, "label": [0] * 4096, "fetch": ["prediction", "acc", "cost"]})
    with ServerProcess.of_mode("flask", NULL) as server, ExitStack() as stack:
        for _ in range(4):  # twice as many as there are threads
            deaf = stack.enter_context(http.opened(server.endpoint))
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            data, until = http.message(body) * 200, time.monotonic() + 1
            while time.monotonic() < until:
                try:
                    data = data[deaf.send(data) :]
                except BlockingIOError:
                    time.sleep(0.01)
        for _ in range(20):
            assert http.post(server.endpoint).status == 200
