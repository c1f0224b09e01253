"""What Flask answers per second in one process and in two, asked by wrk, which costs little. It prints, and judges not.

`wrk` is a Debian package. With granian in the environment, plain Flask on two of its processes is measured as well.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import http_kit as http
import pytest
from waiting import wait_until

WORDS = list(range(1, 121))
PLAIN_FLASK = """
import json
from flask import Flask, Response, request

app = Flask(__name__)

@app.post("/PaddleServing/v1.0/prediction")
def predict():
    json.loads(request.get_data())["words"]
    return Response(json.dumps({"prediction": [0.5, 0.5]}), mimetype="application/json")
"""

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(600)]


@contextmanager
def ours(processes: int) -> Iterator[str]:
    arguments = ["--engine", "none", "--server-threads", str(processes), "--processes", str(processes)]
    with http.server(*arguments, "--worker-kind", "thread") as server:
        yield server.endpoint


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def granian(folder: Path) -> Iterator[str]:
    """Plain Flask on two processes of granian."""
    (folder / "plain_flask.py").write_text(PLAIN_FLASK)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(port), "--workers", "2",
               "--blocking-threads", "1", "--no-access-log", "--log-level", "error", "plain_flask:app"]  # fmt: skip
    process = subprocess.Popen(command, cwd=folder)
    try:
        assert wait_until(lambda: listens(port), 30)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def rate(url: str, script: Path, connections: int) -> float:
    """Requests/s, all of which must have been answered."""
    command = ["wrk", "-t1", f"-c{connections}", "-d3s", "-s", str(script), url + http.PREDICTION]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert found is not None, said
    return float(found[1])


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_flask_in_one_process_and_in_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "post.lua"
    body = json.dumps({"words": WORDS, "fetch": ["prediction"]})
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['Content-Type'] = '{http.JSON}'\n", encoding="utf-8"
    )
    servers: dict[str, Callable[[], AbstractContextManager[str]]] = {
        "Flask, 1 process": partial(ours, 1), "Flask, 2 processes": partial(ours, 2)
    }  # fmt: skip
    if find_spec("granian"):
        servers["plain Flask, 2 processes of granian"] = partial(granian, tmp_path)
    with capsys.disabled():
        print()
        for connections in (8, 32):
            rates: dict[str, list[float]] = {name: [] for name in servers}
            for _ in range(4):
                for name, start in servers.items():
                    with start() as url:
                        rates[name].append(rate(url, script, connections))
            for name, each in rates.items():
                ratios = [one / base for one, base in zip(each, rates["Flask, 1 process"], strict=True)]
                print(f"{connections:3} connections, {name}: {statistics.median(each):8.0f} requests/s, "
                      f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of one")  # fmt: skip
