"""What is ZeroMQ's own: sockets of other kinds, messages in several frames, garbage in its frames and below them."""

from __future__ import annotations

import os
import random
import re
import socket
import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

import pytest
import rpc_kit as kit
import zmq

from imdb_serving.server_process import ServerProcess
from imdb_serving.transports.connect import connect


@pytest.fixture(scope="module")
def zeromq_server() -> Iterator[ServerProcess]:
    """A server that answers at once, over ZeroMQ."""
    with ServerProcess(["--engine", "null", "--server-threads", "2"], ready_timeout=60) as server:
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
        kit.wait_until(lambda: bool(dealer.poll(100)))
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
    with ServerProcess(["--engine", "null", "--server-threads", "1"]) as server:
        flood(server)


def flood(server: ServerProcess) -> None:
    address = urlparse(server.endpoint)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 32)
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    frame = b"\x03" + struct.pack(">Q", 1 << 20) + bytes(1 << 20)  # more, and long
    sent = 0
    with socket.create_connection((address.hostname, address.port), 20) as flooding, connect(server.endpoint) as good:
        flooding.sendall(greeting + b"\x04" + bytes([len(ready)]) + ready)
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
    assert "sends a message without end and is cut" in server.errors()
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
    assert int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) < 1_000_000
