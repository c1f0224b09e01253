"""What docs/protocol.md shows is what the code does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imdb_serving.config import DEFAULT_HTTP_ENDPOINT, MAX_MESSAGE_BYTES, MAX_TIMEOUT
from imdb_serving.messages import MAX_FEEDS
from imdb_serving.protocol import framing, headers, json_bodies, wire
from imdb_serving.protocol.json_bodies import PREDICTION_PATH
from imdb_serving.server import connection, stream_listener
from imdb_serving.server.http import app as http
from imdb_serving.server.http import parsing as http_parsing
from imdb_serving.server.rpc import socket_listener
from imdb_serving.server_process import ServerProcess

PAGE = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")


RPC, HTTP = PAGE.split("\n# HTTP: ")


def block(language: str, page: str = RPC, number: int = 0) -> str:
    code: str = re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[number]
    return code


def frame_bytes(number: int) -> bytes:
    (digits,) = re.findall(rf"^\| {number} \| `([0-9a-f ]+)` \|$", PAGE, re.MULTILINE)
    return bytes.fromhex(digits)


def rows(title: str) -> set[str]:
    """The first column of the table below a heading."""
    (section,) = re.findall(rf"^### {title}.*?\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    table = section.split("\n|---", 1)[1].split("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def test_the_example_runs_against_a_server(null_server: ServerProcess) -> None:
    code = block("python")
    assert "tcp://127.0.0.1:9292" in code
    code = code.replace("tcp://127.0.0.1:9292", null_server.endpoint)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("probability of positive: 0.500000\n", "", 0)


def test_the_example_over_a_plain_socket_runs_against_a_server() -> None:
    code = block("python", number=1)
    with ServerProcess(["--engine", "none", "--endpoint", "socket://127.0.0.1:0"]) as server:
        port = server.endpoint.rpartition(":")[2]
        assert '("127.0.0.1", 9293)' in code
        code = code.replace('("127.0.0.1", 9293)', f'("127.0.0.1", {port})')
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("probability of positive: 0.500000\n", "", 0)


def test_the_example_in_one_piece_is_the_same_request() -> None:
    header = msgspec.msgpack.encode(json.loads(block("json")))
    (prefix,) = re.findall(r"^\| 0 to 23 \| `([0-9a-f ]+)` \|$", PAGE, re.MULTILINE)
    piece = bytes.fromhex(prefix) + header + bytes(4) + frame_bytes(2)
    assert len(piece) == 160
    opened = wire.open_piece(piece)
    question = wire.read_question(opened.header)
    assert isinstance(question, headers.Predict)
    assert wire.decode_request(question, opened.tensors).feed["words"].values.tolist() == [8, 233, 52]


def test_the_version_bytes_are_the_protocol() -> None:
    assert frame_bytes(0) == framing.PROTOCOL
    assert f"# RPC: `{framing.PROTOCOL.decode()}`" in PAGE.splitlines()


def test_the_example_bytes_are_the_request_they_describe() -> None:
    header = msgspec.msgpack.encode(json.loads(block("json")))
    frames = [frame_bytes(0), header, frame_bytes(2)]
    opened = wire.open_piece(wire.join(frames, 1 << 20))
    question = wire.read_question(opened.header)
    assert isinstance(question, headers.Predict)
    assert wire.decode_request(question, opened.tensors).feed["words"].values.tolist() == [8, 233, 52]


@pytest.mark.parametrize(
    ("title", "header"), [("`predict`", headers.Predict), ("`answer`", headers.Answer), ("`failure`", headers.Failure)]
)
def test_the_documented_keys_are_those_of_the_headers(title: str, header: type[msgspec.Struct]) -> None:
    assert rows(title) == {"kind", *header.__struct_fields__}


def test_the_documented_limits_are_those_of_the_code() -> None:
    assert framing.MAX_HEADER_BYTES == 1 << 20
    assert f"{MAX_MESSAGE_BYTES >> 20} MiB by default" in PAGE
    assert f"while {socket_listener.MAX_UNDER_WAY:,} of its requests are under way" in PAGE
    assert socket_listener.MAX_UNSENT_BYTES == 1 << 20
    assert connection.UNREAD_SECONDS == 60
    assert f"whole {connection.MESSAGE_SECONDS:.0f} s after its first byte" in PAGE
    assert f"one second more for each {connection.LEAST_RATE >> 10} KiB of it" in PAGE
    assert f"may hold {stream_listener.MAX_HELD_BYTES >> 20} MiB of messages" in PAGE
    assert f"A head may have {http_parsing.MAX_HEAD_BYTES >> 10} KiB and {http_parsing.MAX_FIELDS} fields" in PAGE
    assert f"at most `max_feeds` ({MAX_FEEDS};" in PAGE
    assert set(headers.DTYPES) <= set(re.findall(r"`(\w+)`", PAGE))


@pytest.fixture(scope="module")
def flask() -> Iterator[str]:
    with ServerProcess(["--engine", "none", "--server-threads", "1"], command="flask", ready_timeout=60) as server:
        yield server.endpoint


def test_the_http_example_runs_against_a_server(flask: str) -> None:
    code = block("python", HTTP)
    assert DEFAULT_HTTP_ENDPOINT in code
    code = code.replace(DEFAULT_HTTP_ENDPOINT, flask)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("probability of positive: 0.500000\n", "", 0)


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[str]:
    """A server that reads text as well."""
    with ServerProcess([str(bundle), "--server-threads", "1"], command="flask", ready_timeout=60) as server:
        yield server.endpoint


def form(answer: Any) -> Any:
    """An answer without its numbers: names and nesting."""
    if isinstance(answer, dict):
        return {name: form(value) for name, value in answer.items()}
    return [form(value) for value in answer] if isinstance(answer, list) else 0


FORMS = re.findall(r"^\| [^|]+ \| `(\{.*?\})` \| `(\{.*?\})` \|$", HTTP, re.MULTILINE)


def test_all_forms_are_found() -> None:
    assert len(FORMS) == 5


@pytest.mark.parametrize(("body", "answer"), FORMS)
def test_a_documented_form_has_the_documented_answer(body: str, answer: str, model: str) -> None:
    request = urllib.request.Request(model + PREDICTION_PATH, body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        served = json.load(response)
        timing = response.headers["Server-Timing"]
    assert form(served) == form(json.loads(answer))
    names = [entry.split(";")[0] for entry in timing.split(", ")]
    assert names == ["queue", "parse", "handover", "op0", "op1", "op2", "clock"]
    assert all(f"`{name}`" in HTTP or f"`{name};" in HTTP for name in names if not name.startswith("op"))


def test_the_documented_paths_limits_and_defaults_are_those_of_the_code() -> None:
    assert set(re.findall(r"^\| `(?:GET|POST) (\S+)` \|", HTTP, re.MULTILINE)) == {
        PREDICTION_PATH,
        json_bodies.LIVE_PATH,
        json_bodies.READY_PATH,
        "/openapi.json",
        "/",
    }
    assert HTTP.startswith(f"`{http.PROTOCOL}`")
    assert f"at most {json_bodies.MAX_BODY_BYTES >> 20} MiB" in HTTP
    assert f"`{json_bodies.TIMEOUT_HEADER}` | seconds, above 0 and at most {MAX_TIMEOUT:,.0f}" in HTTP
    assert f"{json_bodies.DEFAULT_REQUEST_SECONDS:.0f} when absent" in HTTP
