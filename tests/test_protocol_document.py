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

from imdb_serving.config import DEFAULT_HTTP_ENDPOINT, MAX_TIMEOUT
from imdb_serving.server_process import ServerProcess
from imdb_serving.transports.http import app as http
from imdb_serving.transports.http import json_wire, problems
from imdb_serving.transports.http.json_wire import PREDICTION_PATH
from imdb_serving.transports.rpc import wire

PAGE = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")


RPC, HTTP = PAGE.split("\n# HTTP: ")


def block(language: str, page: str = RPC) -> str:
    code, *_ = re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
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


def test_the_version_bytes_are_the_protocol() -> None:
    assert frame_bytes(0) == wire.PROTOCOL
    assert f"# RPC: `{wire.PROTOCOL.decode()}`" in PAGE.splitlines()


def test_the_example_bytes_are_the_request_they_describe() -> None:
    header = msgspec.msgpack.encode(json.loads(block("json")))
    frames = [frame_bytes(0), header, frame_bytes(2)]
    question = wire.read_header(frames)
    assert isinstance(question, wire.Predict)
    assert wire.decode_request(question, frames).feed["words"].values.tolist() == [8, 233, 52]


@pytest.mark.parametrize(
    ("title", "header"), [("`predict`", wire.Predict), ("`answer`", wire.Answer), ("`failure`", wire.Failure)]
)
def test_the_documented_keys_are_those_of_the_headers(title: str, header: type[msgspec.Struct]) -> None:
    assert rows(title) == {"kind", *header.__struct_fields__}


def test_the_documented_limits_are_those_of_the_code() -> None:
    assert wire.MAX_HEADER_BYTES == 1 << 20
    assert f"{wire.MAX_MESSAGE_BYTES >> 20} MiB by default" in PAGE
    assert set(wire.DTYPES) <= set(re.findall(r"`(\w+)`", PAGE))


@pytest.fixture(scope="module")
def flask() -> Iterator[str]:
    with ServerProcess(["--engine", "null", "--server-threads", "1"], command="flask", ready_timeout=60) as server:
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
    assert len(FORMS) == 4


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
        json_wire.LIVE_PATH,
        json_wire.READY_PATH,
        "/",
    }
    assert HTTP.startswith(f"`{http.PROTOCOL}`")
    assert f"at most {json_wire.MAX_BODY_BYTES >> 20} MiB" in HTTP
    assert f"`{json_wire.TIMEOUT_HEADER}` | seconds, above 0 and at most {MAX_TIMEOUT:,.0f}" in HTTP
    assert f"{problems.DEFAULT_REQUEST_SECONDS:.0f} when absent" in HTTP
