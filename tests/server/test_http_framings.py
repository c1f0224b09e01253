"""What frames a request, against RFC 9112: ours at both fronts, and in the heavier tests gunicorn as well."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import http_framings as framings
import http_kit as http
import pytest
from waiting import wait_until


@pytest.fixture(scope="module", params=["flask", "flask-gateway"])
def listener(request: pytest.FixtureRequest) -> Iterator[str]:
    with http.server("--engine", "none", "--server-threads", "2", command=request.param) as server:
        yield server.endpoint


@pytest.mark.parametrize("framing", framings.FRAMINGS, ids=lambda framing: framing.name)
def test_a_request_is_framed_as_the_standard_says(listener: str, framing: framings.Framing) -> None:
    said = http.converse(listener, framing.data + framings.PROBE)
    assert framings.agrees(framings.statuses(said), framing.statuses), (framing.source, said)


@pytest.mark.parametrize("framing", framings.FRAMINGS, ids=lambda framing: framing.name)
def test_it_is_framed_the_same_when_it_comes_byte_by_byte(listener: str, framing: framings.Framing) -> None:
    data = (framing.data + framings.PROBE)[:2000]
    with http.opened(listener) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        said = b""
        try:
            for byte in data:
                connection.sendall(bytes([byte]))
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                said += part
        except (ConnectionResetError, BrokenPipeError):
            pass
    if len(framing.data) > 1900:
        return  # a part of it was sent
    found = framings.statuses(said)
    if framing.statuses[0] == 200 or len(framing.statuses) > 1:
        assert framings.agrees(found, framing.statuses), (framing.source, said)
    else:  # what is refused early may lose its answer with the connection's reset; a method cut short is no method
        assert found in ([], [400]) or framings.agrees(found, framing.statuses), (framing.source, said)


def test_there_are_sixty_framings() -> None:
    assert len({framing.data for framing in framings.FRAMINGS}) == len(framings.FRAMINGS) >= 60


def test_the_word_to_continue_never_reaches_another_request(listener: str) -> None:
    """A body that came at once needs none, and the next request did not ask for it."""
    head, _, data = http.message(head="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    with http.opened(listener) as connection:
        connection.sendall(head + b"\r\n\r\n" + data + http.message()[:40])
        connection.settimeout(1)
        said = connection.recv(1 << 16)
        assert framings.statuses(said) == [200]
        assert b"100 Continue" not in said
        connection.sendall(http.message()[40:])
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_a_request_that_expects_the_word_gets_it_behind_the_answers_before_it(listener: str) -> None:
    head, _, data = http.message(head="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    with http.opened(listener) as connection:
        connection.sendall(http.message() + head + b"\r\n\r\n")
        said = b""
        while not said.endswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            said += connection.recv(1 << 16)
        assert said.startswith(b"HTTP/1.1 200")
        connection.sendall(data)
        http.receive_answer(connection)


@pytest.mark.parametrize(("data", "status"), [
    (framings.head(b"Transfer-Encoding: gzip, chunked"), 501), (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 501), (framings.head(start=framings.on(b"2.0")), 505),
])  # fmt: skip
def test_what_is_not_implemented_has_a_code_of_its_own(listener: str, data: bytes, status: int) -> None:
    said = http.converse(listener, data)
    assert framings.statuses(said) == [status]
    assert b'"code":"not_implemented"' in said


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_may_offer_http_2(listener: str) -> None:
    command = ["curl", "--silent", "--show-error", "--http2", "--max-time", "10", "--data-binary", "@-",
               "--header", "Content-Type: application/json", listener + http.PREDICTION]  # fmt: skip
    done = subprocess.run(command, input=http.BODY, capture_output=True, timeout=20, check=False)
    assert (done.stderr, done.returncode) == (b"", 0)
    assert done.stdout == b'{"prediction":[0.5,0.5]}'


PLAIN = """
def app(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_where_gunicorn_differs(tmp_path: Path) -> None:
    """Prints each framing that gunicorn answers otherwise than the RFC says, as ours never does."""
    pytest.importorskip("gunicorn")
    (tmp_path / "plain.py").write_text(PLAIN)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--bind",
        f"127.0.0.1:{port}",
        "--worker-class",
        "gthread",
        "plain:app",
    ]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            assert wait_until(lambda: _answers(port), 30)
            differ = []
            for framing in framings.FRAMINGS:
                found = framings.statuses(http.converse(url, framing.data + framings.PROBE))
                if not framings.agrees(found, framing.statuses):
                    differ.append(f"{framing.name}: {found[:4]}, RFC {framing.source}: {framing.statuses[:4]}")
        finally:
            process.terminate()
    print(f"gunicorn differs in {len(differ)} of {len(framings.FRAMINGS)}:", *differ, sep="\n  ")
    assert len(differ) < len(framings.FRAMINGS) / 2


def _answers(port: int) -> bool:
    try:
        return bool(http.converse(f"http://127.0.0.1:{port}", framings.PROBE))
    except OSError:
        return False
