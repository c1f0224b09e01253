"""What the RPC tests share: raw clients written from docs/protocol.md alone, and a look at processes through /proc."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import zmq
from server_processes import with_processes

from imdb_serving.clients.connect import connect
from imdb_serving.server_process import ServerProcess

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


class Carrier(NamedTuple):
    """What carries messages: the name of its mode, and its endpoints' scheme."""

    mode: str
    scheme: str

    def endpoint(self, port: int = 0) -> str:
        """An endpoint on this host."""
        return f"{self.scheme}://127.0.0.1:{port}"


ZEROMQ, SOCKET = CARRIERS = (Carrier("rpc", "tcp"), Carrier("socket", "socket"))
VALUE_BYTES = {"int32": 4, "int64": 8, "float32": 4, "float64": 8, "utf8": 1}


def in_one_piece(frames: Sequence[bytes]) -> bytes:
    """A message's frames in one piece."""
    header = frames[1] if len(frames) > 1 else b""
    body = b"".join(frame + bytes(-len(frame) % 8) for frame in frames[2:])
    sizes = struct.pack("<II", len(header), len(body))
    return frames[0].ljust(16, b"\0")[:16] + sizes + header + bytes(-len(header) % 8) + body


class RawConnection:
    """A plain socket that is used as a ZeroMQ one is."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("socket://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 10)

    def send_multipart(self, frames: Sequence[bytes]) -> None:
        self.socket.sendall(in_one_piece(frames))

    def recv_multipart(self) -> list[bytes]:
        """The next message, taken apart into frames."""
        version, header_bytes, body_bytes = struct.unpack("<16sII", self._exactly(24))
        header = self._exactly(header_bytes + -header_bytes % 8)[:header_bytes]
        body = self._exactly(body_bytes)
        tensors = []
        for tensor in msgspec.msgpack.decode(header).get("fetch", []):
            size = VALUE_BYTES[tensor["dtype"]] * math.prod(tensor["shape"])
            tensors.append(body[:size])
            body = body[size + -size % 8 :]
        assert body == b""
        return [version.rstrip(b"\0"), header, *tensors]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more, "the server closed the connection"
            data += more
        return data


@contextmanager
def raw_socket(endpoint: str, kind: int = zmq.DEALER) -> Iterator[Any]:
    """A client without this package's code, whose receiving gives up after ten seconds."""
    if endpoint.startswith("socket://"):
        connection = RawConnection(endpoint)
        with connection.socket:
            yield connection
        return
    with zmq.Context() as context, context.socket(kind) as opened:
        opened.linger = 0
        opened.rcvtimeo = opened.sndtimeo = 10_000
        opened.connect(endpoint)
        yield opened


@contextmanager
def launched(
    carrier: Carrier, *arguments: str, folder: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a session of its own, as from a shell: the process and its ready line."""
    environment = {**os.environ, **({"TMPDIR": str(folder)} if folder else {})}
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "imdb_serving",
            "serve",
            *with_processes("serve", ["--endpoint", carrier.endpoint(), *arguments]),
        ],
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


@contextmanager
def side_by_side(count: int) -> Iterator[Callable[..., Future[Any]]]:
    """A function that runs others in threads; the block ends when all have returned."""
    with ThreadPoolExecutor(count) as threads:
        yield threads.submit


def assert_undisturbed(server: ServerProcess, noises: Sequence[Callable[[], None]]) -> None:
    """A good client is answered rightly while the noises last, and the server is the same one afterwards."""
    with connect(server.endpoint, timeout=10) as client, side_by_side(len(noises)) as run:
        running = [run(noise) for noise in noises]
        answered = 0
        while answered < 50 or not all(noise.done() for noise in running):
            assert client.predict(SAMPLE)["prediction"].tolist() == [0.5, 0.5]
            answered += 1
        for noise in running:
            noise.result()
        assert client.hello().pid == server.pid
    with connect(server.endpoint, timeout=10) as newcomer:
        assert newcomer.hello().pid == server.pid
