"""Garbage on the wire: no crash, no hang, no leak, and a good client beside it notices nothing."""

from __future__ import annotations

import os
import random
import re
import socket
import struct
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress

import fuzzing
import http_kit as http
import load_kit as load
import psutil
import pytest
import rpc_kit as kit
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from test_seen_from_outside import scraped
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.errors import UNFORESEEN
from imdb_serving.server_process import ServerProcess

CODES = {"bad_request", "timeout", "overloaded", "unavailable", "internal"}
WINDOW = 64


def over_zeromq(endpoint: str, seed: int, count: int) -> Counter[str]:
    """Send messages and read an answer to each; how they were answered."""
    rng, seen = random.Random(seed), Counter[str]()
    with kit.raw_socket(endpoint) as dealer:
        for _ in range(0, count, WINDOW):
            for _ in range(WINDOW):
                dealer.send_multipart(fuzzing.message(rng))
            for _ in range(WINDOW):
                frames = dealer.recv_multipart()
                seen[kind_of(frames)] += 1
    return seen


def kind_of(frames: list[bytes]) -> str:
    """What an answer says, in either form; it is checked to be one."""
    if not frames[0]:  # what begins with an empty frame is taken for a REQ socket's
        frames = frames[1:]
    if len(frames) == 1:
        header = int.from_bytes(frames[0][16:20], "little")
        frames = [kit.VERSION, frames[0][24 : 24 + header]]
    answer = kit.read_answer(frames)
    if answer["kind"] != "failure":
        return str(answer["kind"])
    assert answer["code"] in CODES, answer
    assert answer["code"] != "internal" or answer["message"] == UNFORESEEN, answer
    assert "Traceback" not in answer["message"]
    return str(answer["code"])


def over_socket(endpoint: str, seed: int, count: int) -> Counter[str]:
    """Send messages, some on one connection until the server closes it; how it ended."""
    rng, seen = random.Random(seed), Counter[str]()
    host, _, port = endpoint.removeprefix("socket://").rpartition(":")
    done = 0
    while done < count:
        with socket.create_connection((host, int(port)), 20) as connection:
            several = rng.randint(1, 20)
            done += several
            data = b"".join(
                frames[0] if len(frames) == 1 and rng.random() < 0.9 else kit.in_one_piece(frames)
                for frames in (fuzzing.message(rng) for _ in range(several))
            )
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    seen["bytes"] += 1
            except (ConnectionResetError, BrokenPipeError):
                seen["reset"] += 1
            seen["ended"] += 1
    return seen


def over_http(endpoint: str, seed: int, count: int) -> Counter[str]:
    """Send requests, some on one connection until the server closes it; how they were answered."""
    rng, seen, done = random.Random(seed), Counter[str](), 0
    while done < count:
        several = rng.randint(1, 20)
        done += several
        said = http.converse(endpoint, b"".join(fuzzing.http_message(rng) for _ in range(several)))
        seen.update(status.decode() for status in re.findall(rb"HTTP/1.1 (\d{3}) [A-Z]", said))
        assert b"Traceback" not in said
        assert not re.search(rb"HTTP/1.1 500 ", said), said
        seen["ended"] += 1
    return seen


def trickle(mode: str, endpoint: str, seed: int, count: int) -> Counter[str]:
    """Begin large messages whose bytes come slowly, on some connections at once, and leave them."""
    rng, size = random.Random(seed), 8 << 20
    begun = {
        "rpc": GREETING + b"\x03" + struct.pack(">Q", size),
        "socket": struct.pack("<16sII", kit.VERSION, 100, size),
        "flask": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size,
    }[mode]
    host, _, port = endpoint.rpartition("//")[2].rpartition(":")
    for _ in range(count // 5000 + 1):
        with ExitStack() as stack:
            several = [stack.enter_context(socket.create_connection((host, int(port)), 20)) for _ in range(5)]
            for part in (begun, bytes(rng.randint(1, 1 << 20)), b"a", b"b"):
                for connection in several:
                    with suppress(OSError):
                        connection.sendall(part)
    return Counter(trickled=5)


READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48) + b"\x04" + bytes([len(READY)]) + READY


def fuzz(mode: str, attack: Callable[[str, int, int], Counter[str]], kind: str, each: int) -> None:
    arguments = ["--engine", "none", "--server-threads", "2", "--worker-kind", kind, "--metrics-port", "0"]
    with ServerProcess.of_mode(mode, arguments) as server, connect(server.endpoint, 30) as client:
        url = client.hello().metrics
        attack(server.endpoint, 1, each // 10)  # warm up
        process = psutil.Process(server.pid)
        before = process.memory_info().rss, process.num_fds(), process.num_threads(), kit.descendants(server.pid)
        with load.clients_at_work(server.endpoint, 1, 30) as good, kit.side_by_side(3) as run:
            seen = [run(attack, server.endpoint, seed, each) for seed in (2, 3)]
            seen.append(run(trickle, mode, server.endpoint, 4, each))
            total = sum((attacker.result() for attacker in seen), Counter())
            good.more()
        assert set(good.outcomes) == {"answered"}, good.texts
        assert wait_until(lambda: process.num_fds() <= before[1] + 3, 20)
        assert process.memory_info().rss < before[0] + (64 << 20), total
        assert process.num_threads() <= before[2] + 1
        assert kit.descendants(server.pid) == before[3]
        assert scraped(url)["requests_total{bad_request}"] > 0
        print(mode, kind, dict(total), f"{(process.memory_info().rss - before[0]) / 2**20:+.1f} MiB")


@pytest.mark.parametrize("kind", load.some(["thread", "process"], ["thread"]))
def test_fuzzed_messages_over_zeromq(kind: str) -> None:
    fuzz("rpc", over_zeromq, kind, 5_000)


def test_fuzzed_messages_over_a_plain_socket() -> None:
    fuzz("socket", over_socket, "thread", 5_000)


def test_fuzzed_requests_over_http() -> None:
    fuzz("flask", over_http, "thread", 500)


ATTACKS = {"rpc": over_zeromq, "socket": over_socket, "flask": over_http}
MILLION = [
    ("rpc", "thread", 300_000), ("rpc", "process", 50_000), ("socket", "thread", 100_000),
    ("socket", "process", 100_000), ("flask", "thread", 50_000),
    ("flask", "process", 10_000),
]  # fmt: skip
"""Each of two attackers sends so many, and a third one trickles."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("mode", "kind", "each"), MILLION)
def test_a_million_fuzzed_messages(mode: str, kind: str, each: int) -> None:
    fuzz(mode, ATTACKS[mode], kind, each)


def test_a_fuzzer_of_zeromqs_own_frames_ends_its_connection_alone() -> None:
    with ServerProcess(["--engine", "none"]) as server, connect(server.endpoint, 30) as client:
        rng = random.Random(4)
        host, _, port = server.endpoint.removeprefix("tcp://").rpartition(":")
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
        for number in range(300):
            with socket.create_connection((host, int(port)), 5) as connection:
                start = greeting if number % 2 else b""
                connection.sendall(start + rng.randbytes(rng.randint(1, 500)))
            assert number % 50 or client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
        assert client.hello().pid == server.pid


CHECKS = [ checks.status_code_conformance, checks.content_type_conformance,
          checks.response_schema_conformance, checks.response_headers_conformance]  # fmt: skip


def fuzz_from_the_description(examples: int) -> None:
    with (
        http.server("--engine", "none", "--server-threads", "2") as server,
        load.clients_at_work(server.endpoint, 1) as good,
    ):
        schema = schemathesis.openapi.from_url(f"{server.endpoint}/openapi.json")
        count = 0
        for operation in schema.get_all_operations():
            for mode in GenerationMode:

                @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
                          suppress_health_check=list(HealthCheck))  # fmt: skip
                @given(case=operation.ok().as_strategy(generation_mode=mode))
                def fuzzed(case) -> None:
                    nonlocal count
                    count += 1
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        response = case.call(timeout=20)
                        assert response.status_code != 500, response.text  # a deadline of no time is a 504
                        case.validate_response(response, checks=CHECKS)

                with suppress(Unsatisfiable):  # nothing can be wrong with a request that takes nothing
                    fuzzed()
        good.more()
    assert set(good.outcomes) == {"answered"}, good.texts
    assert count > examples


@pytest.mark.filterwarnings("ignore")
def test_http_answers_as_its_description_says() -> None:
    fuzz_from_the_description(25)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_http_answers_as_its_description_says_however_odd_the_request() -> None:
    fuzz_from_the_description(int(os.environ.get("FUZZ_EXAMPLES", "3000")))


def test_the_description_names_what_there_is() -> None:
    with http.server("--engine", "none") as server:
        described = http.ask(server.endpoint, path="/openapi.json").json()
        for path, methods in described["paths"].items():
            for method in ("GET", "POST"):
                assert (http.ask(server.endpoint, method, path).status == 405) == (method.lower() not in methods)
