"""A host's process, started from here and spoken to over a socket pair; it ends when this process does.

Knows what runs there by its name alone, and not what it is asked.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from time import monotonic

from imdb_serving.bench.cluster.orders import Call, Outcome
from imdb_serving.errors import HostLost
from imdb_serving.server_process import end

END_SECONDS = 30.0
"""A server among what ends with it may still be answering what it has accepted."""


class HostProcess:
    """`python -m imdb_serving.bench.cluster.host`, from `start` to `stop`."""

    def __init__(self) -> None:
        """Start it; it is ready when it answers."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            command = [sys.executable, "-m", "imdb_serving.bench.cluster.host", str(descriptor)]
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
        """Have it carry out a call, and return the outcome; raise `HostLost` when the process dies, or is late."""
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
