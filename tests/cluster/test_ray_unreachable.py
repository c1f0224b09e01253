"""A cluster that is not there: an error that says so, and no wait without an end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: make ray")

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "imdb_serving", "sweep"]
TINY = "engine: none\nserver_threads: [1]\nclient_threads: [1]\nsamples: 10\nrounds: 1\n"
MOST_SECONDS = 150
"""Ray alone would go on for ever."""


def sweep(folder: Path, address: str, **environment: str) -> str:
    """What a sweep on a cluster at an address says when it fails."""
    (folder / "tiny.yaml").write_text(TINY)
    done = subprocess.run(
        [*COMMAND, folder / "tiny.yaml", "--cluster", address, "--outputs", folder],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=MOST_SECONDS, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def nobody() -> str:
    """HOST:PORT of nobody."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """HOST:PORT of somebody who listens and never says a word."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nobody_listens_there(scheme: str, nobody: str, tmp_path: Path) -> None:
    said = sweep(tmp_path, scheme + nobody)
    assert f"no Ray cluster at {scheme}{nobody}: nobody listens there" in said
    assert "ray start --head" in said


def test_a_head_that_was_killed_is_not_waited_for(nobody: str, tmp_path: Path) -> None:
    """Its address is still known; `auto` takes it."""
    assert "no Ray cluster here: nobody listens there" in sweep(tmp_path, "auto", RAY_ADDRESS=nobody)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_who_listens_and_does_not_answer_is_given_up(scheme: str, silent: str, tmp_path: Path) -> None:
    assert f"no Ray cluster at {scheme}{silent}: " in sweep(tmp_path, scheme + silent)
