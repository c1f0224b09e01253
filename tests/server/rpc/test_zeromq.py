"""What is ZeroMQ's own: sockets of other kinds, messages in several frames, garbage in its frames and below them."""

from __future__ import annotations

import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil
import pytest
import rpc_kit as kit
import zmq
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.errors import ServingError
from imdb_serving.server.rpc import zeromq_limits
from imdb_serving.server_process import ServerProcess


@pytest.fixture(scope="module")
def zeromq_server() -> Iterator[ServerProcess]:
    """A server that answers at once, over ZeroMQ."""
    with ServerProcess(["--engine", "none", "--server-threads", "2"], ready_timeout=60) as server:
        yield server


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
@pytest.mark.parametrize("one_piece", [False, True])
def test_either_socket_and_either_form_is_answered_in_its_own(
    zeromq_server: ServerProcess, kind: int, one_piece: bool
) -> None:
    def form(frames: list[bytes]) -> list[bytes]:
        return [kit.in_one_piece(frames)] if one_piece else frames

    with kit.raw_socket(zeromq_server.endpoint, kind) as opened:
        for question in (kit.raw_message(id=7), [kit.VERSION, b"\x82\xa4kind\xa5hello\xa2id\x07"]):
            opened.send_multipart(form(question))
            answer = opened.recv_multipart()
            assert len(answer) == 1 if one_piece else answer[0] == kit.VERSION
            assert b"\xa2id\x07" in b"".join(answer)
        opened.send_multipart(form(kit.raw_message(id=78, fetch=["acc"])))
        failure = opened.recv_multipart()
        assert len(failure) == (1 if one_piece else 2)
        assert b"needs a 'label'" in failure[-1]


def send_garbage(endpoint: str) -> None:
    chance = random.Random(7)
    with kit.raw_socket(endpoint) as dealer:
        dealer.send(b"")
        dealer.send_multipart([b"", b""])
        for _ in range(200):
            frames = [chance.randbytes(chance.choice([0, 1, 14, 300])) for _ in range(chance.randint(1, 5))]
            dealer.send_multipart([kit.VERSION, *frames] if chance.random() < 0.5 else frames)
        assert wait_until(lambda: bool(dealer.poll(100)))
    with kit.raw_socket(endpoint) as dealer:
        dealer.send_multipart([kit.VERSION, bytes(17 << 20)])
        assert not dealer.poll(200)


def send_plain_bytes(endpoint: str) -> None:
    address = urlparse(endpoint)
    assert address.hostname is not None
    for text in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 1000, b"\xff" + os.urandom(2000), b""):
        with socket.create_connection((address.hostname, address.port or 0), timeout=5) as plain:
            plain.sendall(text)
    # The greeting of ZMTP 3, then nonsense instead of a handshake.
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    with socket.create_connection((address.hostname, address.port or 0), timeout=5) as plain:
        plain.sendall(greeting + b"\x06\xff" * 500)


def test_garbage_does_not_disturb_a_good_client(zeromq_server: ServerProcess) -> None:
    noises = [partial(noise, zeromq_server.endpoint) for noise in (send_garbage, send_plain_bytes)]
    kit.assert_undisturbed(zeromq_server, noises)


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="the kernel does not tell how much a connection received")
def test_a_message_that_never_ends_is_cut_off_and_costs_others_nothing() -> None:
    with ServerProcess(["--engine", "none", "--server-threads", "1"]) as server:
        flood(server)


def flood(server: ServerProcess) -> None:
    address = urlparse(server.endpoint)
    frame = b"\x03" + struct.pack(">Q", 1 << 20) + bytes(1 << 20)  # more, and long
    sent = 0
    with socket.create_connection((address.hostname, address.port), 20) as flooding, connect(server.endpoint) as good:
        flooding.sendall(GREETING + b"\x04" + bytes([len(READY)]) + READY)
        try:
            while sent < 4096:
                flooding.sendall(frame)
                sent += 1
                if sent % 16 == 0:
                    time.sleep(0.02)
                    assert good.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
        except OSError:  # reset, or nobody reads any more
            pass
        assert 2 * 16 <= sent < 4096  # what a message may hold is taken
        assert good.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
    assert "a connection is cut: it sends a message without end" in server.errors()
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
    assert int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) < 1_000_000


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


def test_small_frames_without_end_are_cut_off_by_the_memory_they_take() -> None:
    """Each takes 64 bytes of memory for two on the wire: 39 MiB of them used to take 1,119 MiB."""
    with ServerProcess(["--engine", "none"]) as server, connect(server.endpoint, 30) as client:
        client.predict(kit.SAMPLE)
        host, _, port = server.endpoint.removeprefix("tcp://").rpartition(":")
        process = psutil.Process(server.pid)
        before = most = process.memory_info().rss
        with socket.create_connection((host, int(port)), 10) as flood, suppress(OSError):
            flood.sendall(GREETING + b"\x04" + bytes([len(READY)]) + READY)
            for _ in range(64 << 5):
                flood.sendall(b"\x01\x00" * (1 << 14))
                most = max(most, process.memory_info().rss)
        assert most - before < 700 << 20
        assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]


def twin(endpoint: str, context: zmq.Context[Any]) -> Any:
    """A client that has chosen the same identity as all others of this test."""
    dealer = context.socket(zmq.DEALER)
    dealer.identity = b"twin"
    dealer.linger, dealer.rcvtimeo = 0, 500
    dealer.connect(endpoint)
    return dealer


def test_a_second_client_of_the_same_identity_is_answered_once_the_first_has_gone(
    zeromq_server: ServerProcess,
) -> None:
    def is_answered(dealer: Any) -> bool:
        dealer.send_multipart(kit.raw_message())
        try:
            return kit.read_answer(dealer.recv_multipart())["kind"] == "answer"
        except zmq.Again:
            return False

    with zmq.Context() as context:
        first, second = twin(zeromq_server.endpoint, context), twin(zeromq_server.endpoint, context)
        assert is_answered(first) != is_answered(second)
        assert is_answered(first) != is_answered(second)
        one, other = (first, second) if is_answered(first) else (second, first)
        one.close()
        assert wait_until(lambda: is_answered(other), 20)
        other.close()


def test_without_a_descriptor_a_server_rests_and_goes_on() -> None:
    """ZeroMQ's thread would try to accept without end, which takes a whole processor."""
    script = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)); {MAIN}"
    command = [sys.executable, "-c", script, "serve", "--engine", "none", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            endpoint = kit.endpoint_of(process.stdout.readline())
            host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
            watched = psutil.Process(process.pid)
            with connect(endpoint, 10) as client, ExitStack() as stack:
                client.predict(kit.SAMPLE)
                for _ in range(150):
                    stack.enter_context(socket.create_connection((host, int(port)), 5))
                assert wait_until(lambda: watched.num_fds() >= 127)
                time.sleep(0.5)
                used = sum(watched.cpu_times()[:2])
                time.sleep(2)
                assert sum(watched.cpu_times()[:2]) - used < 0.6  # seconds; it was 2.0
                assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
            assert wait_until(lambda: is_ready(endpoint), 20)
        finally:
            process.terminate()


def test_who_refuses_connections_never_waits_for_one_that_another_thread_took() -> None:
    """It did, and then the server never ended; so could ZeroMQ's thread, and with it the whole server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refuser = zeromq_limits.ConnectionRefuser()
        refuser.add(listener.fileno())
        refusing = threading.Thread(target=zeromq_limits._refuse_one, args=(listener.fileno(),), daemon=True)
        refusing.start()
        refusing.join(10)
        assert not refusing.is_alive()
        with pytest.raises(BlockingIOError):
            listener.accept()


MAIN = "import sys; from imdb_serving.__main__ import run; sys.exit(run())"


def is_ready(endpoint: str) -> bool:
    """True when a new client is answered."""
    with connect(endpoint, 1) as client:
        try:
            return client.hello().workers_ready > 0
        except ServingError:
            return False
