"""The Open Inference Protocol over gRPC: messages as its description has them, and servers of others measured."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from waiting import wait_until

from imdb_serving.cell import CALIBRATION, Row
from imdb_serving.errors import UnexpectedAnswer
from imdb_serving.experiment.grid import run_grid
from imdb_serving.foreign.oip import TensorInfo, Text, fill
from imdb_serving.foreign.oip_grpc import decode, decode_metadata, encode
from imdb_serving.foreign.process import free_port
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.measurement.probe import probe

pytest.importorskip("grpc", reason="grpcio is an extra")

SAMPLES = [Text("good", [5, 300], 1)]


def field(number: int, content: bytes) -> bytes:
    """A field of the kind that has a length, as protobuf writes it."""
    return bytes([number << 3 | 2, len(content)]) + content


WORDS = field(1, b"words") + field(2, b"INT64") + field(3, b"\x01\x02")


def test_messages_are_as_protobuf_writes_the_published_description() -> None:
    tensors = fill([TensorInfo("words", "INT64", [-1, -1])], SAMPLES)
    whole = field(5, WORDS + field(5, field(3, b"\x05\xac\x02")))
    assert encode("m", tensors, is_raw=False) == field(1, b"m") + whole
    raw = field(7, (5).to_bytes(8, "little") + (300).to_bytes(8, "little"))
    assert encode("m", tensors, is_raw=True) == field(1, b"m") + field(5, WORDS) + raw


def test_texts_go_as_bytes_and_halves_raw() -> None:
    (text,) = fill([TensorInfo("text", "BYTES", [-1])], SAMPLES)
    shared = field(1, b"text") + field(2, b"BYTES") + field(3, b"\x01")
    assert encode("m", [text], is_raw=False) == field(1, b"m") + field(5, shared + field(5, field(8, b"good")))
    halves = fill([TensorInfo("x", "FP16", [-1, -1])], SAMPLES)
    assert encode("m", halves, is_raw=False).endswith(field(7, b"\x00\x45\xb0\x5c"))


def test_answers_are_read_as_json_has_them() -> None:
    head = field(1, b"p") + field(2, b"FP32") + field(3, b"\x01\x02")
    values = b"\x00\x00\x80\x3e\x00\x00\x40\x3f"
    expected = {
        "model_name": "m",
        "outputs": [{"name": "p", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.75]}],
    }
    version = field(2, b"7")  # a field that is not read
    assert decode(field(1, b"m") + version + field(5, head + field(5, field(6, values)))) == expected
    assert decode(field(1, b"m") + field(5, head) + field(6, values)) == expected
    label = field(1, b"p") + field(2, b"BYTES") + field(3, b"\x01")
    for found in (
        decode(field(5, label + field(5, field(8, b"good")))),
        decode(field(5, label) + field(6, b"\x04\x00\x00\x00good")),
    ):
        assert found["outputs"][0]["data"] == ["good"]
    inputs = orjson.loads(decode_metadata(field(1, b"m") + field(4, WORDS)))["inputs"]
    assert inputs == [{"name": "words", "datatype": "INT64", "shape": [1, 2]}]


@given(st.binary(max_size=60))
@example(field(5, field(2, b"FP8")))
@example(field(5, field(2, b"FP32")) + field(6, b"\x00\x00\x80"))
@example(field(5, field(2, b"BYTES")) + field(6, b"\x04\x00"))
@example(field(5, b"") * 2 + field(6, b""))
def test_whatever_comes_is_read_or_refused(junk: bytes) -> None:
    for read in (decode, decode_metadata):
        with suppress(UnexpectedAnswer):
            read(junk)


def params(folder: Path, *faults: str, **changes: Any) -> GridParams:
    values: dict[str, Any] = {
        "mode": "http",
        "protocol": "oip-grpc",
        "server_command": f"{{{{ python }}}} {Path(__file__).with_name('someones_grpc.py')} {{{{ port }}}}",
        "server_environment": {"FAULT": ",".join(faults)},
        "server_model": "scores",
        "server_ready_seconds": 20.0,
        "answer": "outputs[0].data[1]",
        "samples": 60,
        "client_threads": [2],
        "server_threads": 1,
        "outputs": str(folder),
    }
    return GridParams(**values | changes)


def one(folder: Path, *faults: str, **changes: Any) -> Row:
    (row,) = run_grid(params(folder, *faults, **changes), lambda _line: None)
    return row


@pytest.mark.parametrize(("binary", "batch", "answer"), [
    (False, 1, "outputs[0].data[1]"), (True, 1, "outputs[0].data[1]"), (True, 4, "outputs[0].data[1::2]"),
])  # fmt: skip
def test_a_server_is_measured_and_its_answers_are_compared(
    tmp_path: Path, batch: int, answer: str, *, binary: bool
) -> None:
    row = one(tmp_path, request_binary=binary, batch=batch, samples=24, passes=2, answer=answer)
    assert (row.error, row.answered, row.difference) == ("", 48, 0.0)
    assert row.stages == ("encode", "remote", "decode")
    first = next((tmp_path / "adhoc" / "answers").glob("answers-*.json")).read_bytes()
    assert len(set(msgspec.json.decode(first).values())) > 5
    (calibrated,) = [row for row in Ledger(tmp_path / "adhoc").rows() if row.cell.series == CALIBRATION]
    assert (calibrated.error, calibrated.failed_requests) == ("", 0)
    assert row.figures.of_ceiling


@pytest.mark.parametrize(
    ("fault", "changes", "words"),
    [
        ("", {"answer": "outputs[3]"}, 'finds nothing in the answer; the answer begins with {"model_name":"scores"'),
        ("token", {}, "status UNAUTHENTICATED: who are you, None?"),
    ],
)  # fmt: skip
def test_what_is_of_no_use_fails_before_any_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("TOKEN", "s3cret-t0ken")
    row = one(tmp_path, fault, **changes)
    assert row.answered == 0
    assert words in row.error


@contextmanager
def running(fault: str) -> Iterator[str]:
    """Start a server, wait until it listens, and give its URL."""
    port = free_port("127.0.0.1")
    command = [sys.executable, str(Path(__file__).with_name("someones_grpc.py")), str(port)]
    with subprocess.Popen(command, env={**os.environ, "FAULT": fault}) as process:
        try:
            assert wait_until(lambda: listens(port), seconds=60)
            yield f"grpc://127.0.0.1:{port}"
        finally:
            process.kill()


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("fault", "changes", "words"),
    [
        ("", {"server_model": "other"},
         "the metadata of model other: status NOT_FOUND: no model other; is server.model its name?"),
        ("hang", {"timeout": 0.2}, "no reply from grpc://127.0.0.1:"),
    ],
)  # fmt: skip
def test_one_that_runs_and_is_of_no_use_is_told_at_once(
    tmp_path: Path, fault: str, changes: dict[str, Any], words: str
) -> None:
    with running(fault) as url:
        row = one(tmp_path, server_command="", server_environment={}, server_url=url, **changes)
    assert row.answered == 0
    assert words in row.error


def test_headers_are_metadata_and_secrets_stay_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret-t0ken")
    row = one(tmp_path, "token", request_headers={"Authorization": "Bearer {{ env.TOKEN }}"})
    assert (row.error, row.answered) == ("", 60)
    wrong = one(tmp_path, "token", request_headers={"Authorization": "Basic {{ env.TOKEN }}"})
    assert "who are you, Basic ***?" in wrong.error


def test_failures_are_counted_by_kind(tmp_path: Path) -> None:
    row = one(tmp_path, "sometimes", samples=200)
    assert "status RESOURCE_EXHAUSTED" in row.error
    assert row.failed_requests == row.requests - row.answered > 10


def test_a_server_that_dies_is_told(tmp_path: Path) -> None:
    row = one(tmp_path, "die", samples=200)
    assert "no server answers at grpc://127.0.0.1:" in row.error
    assert row.failed_requests > 0


def test_tls_is_spoken_with_the_authorities_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(Path(__file__).with_name("for_tests_only.pem")))
    row = one(tmp_path, "tls", server_url=f"grpcs://localhost:{free_port('127.0.0.1')}")
    assert (row.error, row.answered) == ("", 60)


def test_probe_shows_the_message_as_json(tmp_path: Path) -> None:
    lines = list(probe(params(tmp_path)))
    assert lines[1].startswith("request: inference.GRPCInferenceService/ModelInfer of scores, ")
    assert '{"model_name":"scores","outputs":[{"name":"scores","datatype":"FP32"' in lines[2]
    assert lines[-1] == "this can be measured"
