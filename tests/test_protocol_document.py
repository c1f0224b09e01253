"""What docs/protocol.md shows is what the code does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from imdb_serving.bench.server import ServerProcess
from imdb_serving.transports import wire

PAGE = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    code, *_ = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
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
    assert f"`{wire.PROTOCOL.decode()}`" in PAGE.splitlines()[0]


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
