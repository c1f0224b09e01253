"""Every byte that a client sends is charged to its connection: wherever it hides, memory and time stay bounded."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import http_kit as http
import load_kit as load
import numpy as np
import pytest
import rpc_kit as kit
from test_memory import MIB, NULL, peak

from imdb_serving.clients.connect import connect
from imdb_serving.errors import Overloaded
from imdb_serving.messages import Reply, Request
from imdb_serving.server import connection, stream_listener
from imdb_serving.server_process import ServerProcess
from imdb_serving.timing import Timeline

HEAD = b"POST /PaddleServing/v1.0/prediction HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost:\r\n\r\n"


def again(block: bytes, size: int, first: bytes = b"") -> Iterator[bytes]:
    """So many bytes of a block, over and over, behind what comes first."""
    yield first
    block *= max(1, (1 << 16) // len(block))
    for _ in range(size // len(block)):
        yield block


HIDEOUTS: dict[str, Any] = {
    "trailers": lambda: again(b"x-%s: 1\r\n" % (b"y" * 1000), 200 * MIB, CHUNKED + b"0\r\n"),
    "trailers of next to nothing": lambda: again(b"a:\r\n", 40 * MIB, CHUNKED + b"0\r\n"),
    "a trailer's name": lambda: again(b"a", 100 * MIB, CHUNKED + b"0\r\n"),
    "a trailer's value": lambda: again(b"a", 100 * MIB, CHUNKED + b"0\r\na: "),
    "a chunk's extension": lambda: again(b"a", 100 * MIB, CHUNKED + b"1;"),
    "extensions of small chunks": lambda: again(b"1;%s\r\n{\r\n" % (b"a" * 1000), 100 * MIB, CHUNKED),
    "a chunk's size": lambda: again(b"0", 100 * MIB, CHUNKED),
    "chunks of two bytes": lambda: again(b"2\r\n  \r\n", 100 * MIB, CHUNKED),
    "fields of next to nothing": lambda: again(b"a:\r\n", 40 * MIB, HEAD),
    "a field's name": lambda: again(b"a", 100 * MIB, HEAD),
    "a field's value": lambda: again(b"a", 100 * MIB, HEAD + b"a: "),
    "the target": lambda: again(b"a", 100 * MIB, b"GET /"),
    "empty lines": lambda: again(b"\r\n", 100 * MIB),
    "a body": lambda: again(b" ", 100 * MIB, HEAD + b"Content-Length: 16777216\r\n\r\n"),
    "small requests, pipelined": lambda: again(LIVE, 100 * MIB),
    "requests that offer an upgrade": lambda: again(
        LIVE.replace(b"Host:", b"Host:\r\nConnection: upgrade\r\nUpgrade: x"), 20 * MIB
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess.of_mode("flask", NULL) as started:
        http.post(started.endpoint)
        yield started


@pytest.mark.parametrize("hideout", HIDEOUTS)
def test_one_connection_costs_bounded_memory(server: ServerProcess, hideout: str) -> None:
    """48 MiB at most, of which 16 are the largest body, twice while it is passed on; docs/reliability.md says so."""
    with peak(server) as memory, http.opened(server.endpoint) as connection, suppress(OSError):
        connection.settimeout(2)  # it does not read what is answered: then the server reads no more either
        for data in HIDEOUTS[hideout]():
            connection.sendall(data)
    assert memory.growth < 48, memory.growth
    assert http.post(server.endpoint).status == 200


def trickle(mode: str, endpoint: str, stack: ExitStack) -> socket.socket:
    """A connection that has sent all but the last bytes of the largest message."""
    address = endpoint.rpartition("//")[2].rpartition(":")
    connection = stack.enter_context(socket.create_connection((address[0], int(address[2])), 10))
    size = 16 * MIB - 4096
    head = struct.pack("<16sII", kit.VERSION, 100, size - 128)
    if mode == "flask":
        head = HEAD + b"Content-Length: %d\r\n\r\n" % size
    with suppress(OSError):
        connection.sendall(head + b" " * (size - 200))
    return connection


@pytest.mark.parametrize("mode", ["socket", "flask"])
def test_clients_that_hold_large_messages_for_long_do_not_lock_others_out(mode: str) -> None:
    """18 of 16 MiB are more than all may hold; who holds most, longest, is refused, and not who comes last."""
    with ServerProcess.of_mode(mode, NULL) as server, ExitStack() as stack, connect(server.endpoint, 20) as honest:
        held = [trickle(mode, server.endpoint, stack) for _ in range(18)]
        for _ in range(10):
            for connection in held:
                with suppress(OSError):
                    connection.send(b" ")
            try:
                honest.predict_batch([{"words": [8] * 60_000}] * (4 if mode == "socket" else 12))
            except Overloaded as error:
                pytest.fail(str(error))
        with load.clients_at_work(server.endpoint, 2) as others:
            others.more()
        assert set(others.outcomes) == {"answered"}


def large(request: Request, timeline: Timeline) -> Reply:
    """A handler whose answers have 400 kB."""
    with timeline.stage("op0"):
        return Reply({"prediction": np.zeros((1, 100_000), np.float32)}, timeline.stages)


def test_answers_that_are_not_read_are_charged_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_listener, "MAX_HELD_BYTES", 800_000)
    with load.in_process("socket", large) as endpoint, kit.raw_socket(endpoint) as deaf:
        with suppress(ConnectionError):  # it may be closed before the last request is sent
            for number in range(100):
                deaf.send_multipart(kit.raw_message(id=number))
        time.sleep(1)
        assert everything(deaf.socket) < 20_000_000  # of 40; the system's own buffers hold some megabytes


@pytest.mark.parametrize("mode", ["socket", "flask"])
def test_a_client_that_reads_its_answers_byte_by_byte_is_closed(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 0.5)
    with load.in_process(mode, large) as endpoint, ExitStack() as stack:
        host, _, port = endpoint.rpartition("//")[2].rpartition(":")
        slow = stack.enter_context(socket.create_connection((host, int(port)), 10))
        message = kit.in_one_piece(kit.raw_message()) if mode == "socket" else http.message()
        slow.sendall(message * 60)
        until = time.monotonic() + 2.5
        with suppress(ConnectionError):
            while time.monotonic() < until and slow.recv(50):
                time.sleep(0.05)
        assert everything(slow) < 20_000_000  # of 24; the system's own buffers hold some megabytes


def everything(connection: socket.socket) -> int:
    """How many bytes come until the other end closes the connection."""
    connection.settimeout(10)
    read = 0
    with suppress(ConnectionResetError):
        while part := connection.recv(1 << 20):
            read += len(part)
    return read
