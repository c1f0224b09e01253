"""A server started by a command of one's own, in a namespace for one, with its endpoint for the block."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

SIMULATED = ("--engine", "simulated", "--service-time-ms", "2", "--server-threads", "1", "--exit-with-stdin")


@contextmanager
def serving(command: Sequence[str]) -> Iterator[str]:
    """The endpoint of a server of one worker, which ends with the block."""
    with subprocess.Popen([*command, *SIMULATED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        try:
            yield server.stdout.readline().split()[2]
        finally:
            server.stdin.close()
            server.wait(30)
