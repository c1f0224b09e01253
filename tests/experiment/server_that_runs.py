"""A server of someone else that runs already."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waiting import wait_until

from imdb_serving.foreign.process import free_port

SOMEONES = Path(__file__).parent.parent / "foreign" / "someones_server.py"


def is_listening(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(**environment: str) -> Iterator[str]:
    port = free_port("127.0.0.1")
    with subprocess.Popen([sys.executable, SOMEONES, str(port)], env=environment) as process:
        try:
            assert wait_until(lambda: is_listening(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
