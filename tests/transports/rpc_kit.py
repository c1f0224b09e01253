"""What the RPC tests share: raw sockets written from docs/protocol.md alone, and a look at processes through /proc."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zmq

VERSION = b"imdb-serving/1"
WORDS = {"name": "words", "dtype": "int64", "shape": [1], "lengths": [1]}
ONE_WORD = b"\x08" + bytes(7)
PREDICT = {
    "kind": "predict", "id": 1, "deadline_ms": 5000, "samples": 1, "fetch": ["prediction"], "feed": [WORDS],
}  # fmt: skip
SAMPLE = {"words": [8, 233, 52]}


def raw_message(**changes: Any) -> list[bytes]:
    """The frames of a prediction of one word, with keys of its header changed."""
    return [VERSION, msgspec.msgpack.encode({**PREDICT, **changes}), ONE_WORD]


def read_answer(frames: list[bytes]) -> dict[str, Any]:
    """The header of an answer, its tensors' bytes under `data`."""
    assert frames[0] == VERSION
    return {**msgspec.msgpack.decode(frames[1]), "data": frames[2:]}


@contextmanager
def raw_socket(endpoint: str, kind: int = zmq.DEALER) -> Iterator[zmq.Socket[bytes]]:
    """A plain ZeroMQ socket whose receiving gives up after ten seconds."""
    with zmq.Context() as context, context.socket(kind) as opened:
        opened.linger = 0
        opened.rcvtimeo = opened.sndtimeo = 10_000
        opened.connect(endpoint)
        yield opened


@contextmanager
def launched(*arguments: str, folder: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a session of its own, as from a shell: the process and its ready line."""
    environment = {**os.environ, **({"TMPDIR": str(folder)} if folder else {})}
    process = subprocess.Popen(
        [sys.executable, "-m", "imdb_serving", "serve", "--port", "0", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    try:
        with process:
            try:
                assert process.stdout is not None
                yield process, process.stdout.readline()
            finally:
                kill_group(process.pid)
    finally:
        kill_group(process.pid)


def kill_group(group: int) -> None:
    """End what is left of a process group."""
    if group_is_alive(group):
        os.killpg(group, signal.SIGKILL)


def group_is_alive(group: int) -> bool:
    """True while any process of the group runs."""
    return any(fields[2] == group for fields in _processes().values())


def endpoint_of(ready: str) -> str:
    """The endpoint in a ready line."""
    return ready.split()[2]


def serve_and_fail(*arguments: str) -> tuple[int, str]:
    """Run a server that cannot start; its exit code and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "imdb_serving", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def _processes() -> dict[int, tuple[str, int, int]]:
    """State, parent and group of every process that is not a zombie."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            match = re.match(r"(\d+) \(.*\) (\w) (\d+) (\d+)", stat.read_text(), re.DOTALL)
        except OSError:
            continue
        if match and match[2] != "Z":
            found[int(match[1])] = (match[2], int(match[3]), int(match[4]))
    return found


def children(pid: int) -> set[int]:
    """The running children of a process."""
    return {child for child, fields in _processes().items() if fields[1] == pid}


def descendants(pid: int) -> set[int]:
    """The running children of a process, theirs, and so on."""
    direct = children(pid)
    return direct.union(*(descendants(child) for child in direct))


def workers(pid: int) -> set[int]:
    """The worker processes of a server: the children of its fork server."""
    return descendants(pid) - children(pid)


def alive(pids: set[int]) -> set[int]:
    """Those of `pids` that run."""
    return pids & _processes().keys()


def wait_until(condition: Callable[[], bool], seconds: float = 8.0) -> bool:
    """Wait until the condition holds; False if it does not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@contextmanager
def side_by_side(count: int) -> Iterator[Callable[..., Future[Any]]]:
    """A function that runs others in threads; the block ends when all have returned."""
    with ThreadPoolExecutor(count) as threads:
        yield threads.submit
