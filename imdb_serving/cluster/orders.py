"""Calls from a coordinator to a machine as plain values, and the process on the machine that carries them out."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from time import monotonic
from typing import Any

from imdb_serving.errors import HostLost
from imdb_serving.load.client_processes import Connect
from imdb_serving.server_process import ServerSpec, end


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A host's name, its usable cores, its clock, and the digest of its code."""

    name: str
    cores: tuple[int, ...]
    clock: str
    code: str
    pid: int


@dataclass(frozen=True, slots=True)
class ServerOrder:
    """A server to start at an address of the host, on these cores; its model's folder is the host's."""

    spec: ServerSpec
    address: str
    cores: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClientsOrder:
    """Clients to start: how each connects, how many, one request's deadline, and their cores."""

    connect: Connect
    clients: int
    timeout: float
    cores: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A method of a host, and its arguments."""

    method: str
    arguments: Sequence[Any] = ()


Outcome = tuple[bool, Any]
"""Whether a call came to its end, and what it returned or raised."""


def shared_cores(
    cores: Sequence[int], workers: int, math_threads: int, clients: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Share out one host's cores to its server and its clients; where they are too few, both have them all.

    Each client has one, the server the rest: workers' and the transport's.
    """
    if workers * math_threads + clients > len(cores):
        return tuple(cores), tuple(cores)
    return tuple(cores[:-clients]), tuple(cores[-clients:])


END_SECONDS = 30.0
"""A server among what ends with it may still be answering what it has accepted."""


class HostProcess:
    """`python -m imdb_serving.cluster.host`, from `start` to `stop`."""

    def __init__(self) -> None:
        """Start it; it is ready when it answers."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            command = [sys.executable, "-m", "imdb_serving.cluster.host", str(descriptor)]
            # In a session of its own: Ctrl-C is the coordinator's to handle.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[descriptor], start_new_session=True
            )
        self._pipe = Connection(ours.detach())

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, call: Call, seconds: float) -> Outcome:
        """Send a call and return its outcome; raise `HostLost` when the process dies or is late."""
        deadline = monotonic() + seconds
        try:
            # `send` would leave a view on a BytesIO in the error's traceback, which the collector may finalise first.
            self._pipe.send_bytes(bytes(ForkingPickler.dumps(call)))
            if self._pipe.poll(max(0.0, deadline - monotonic())):
                outcome: Outcome = self._pipe.recv()
                return outcome
        except (EOFError, OSError) as error:
            raise HostLost(f"the process that measures there died ({error or type(error).__name__})") from error
        self.stop(0.0)  # its answer must not be taken for the next one's
        raise HostLost(f"no answer within {seconds:g} s")

    def stop(self, seconds: float = END_SECONDS) -> None:
        """Close the conversation, which ends the process and all that it started; what lasts longer is killed."""
        self._pipe.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            end(self._process, 1.0)
