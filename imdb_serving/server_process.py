"""A server in a process of its own, ready by handshake, and ended when its `with` block ends."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import IO, Any

from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import ServerStartError
from imdb_serving.processes import OwnProcess

log = logging.getLogger(__name__)

READY_SECONDS = 120.0
STOP_SECONDS = 20.0
KEEP_SECONDS = 0.2
MAX_TRIES = 4
SOUND_SECONDS = 60.0
"""A server that has lived so long is taken to be a sound one."""

MODES: dict[str, tuple[str, ...]] = {
    "rpc": ("serve",),
    "socket": ("serve", "--endpoint", "socket://127.0.0.1:0"),
    "flask": ("flask",),
    "flask-gateway": ("flask-gateway",),
    "flask-dev": ("flask-dev",),
}
"""The ways of serving, each with its command: RPC over ZeroMQ, and over a plain socket; Flask; Flask in front of RPC;
the same as published."""

MULTIPROCESS_MODES = ("rpc", "socket", "flask")
"""The modes whose worker threads may be in several processes."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """A server to start: its mode, one of `MODES`, and what its workers run.

    `model` is a bundle's folder, None for an engine without a model. An empty `worker_kind` leaves it to the engine; an
    empty `pipeline` is the IMDB pipeline. The worker threads are in `server_processes`, of which `MULTIPROCESS_MODES`
    can have more than one; nothing is left to the server to choose, so that it is known what is measured.
    """

    mode: str
    engine: EngineSpec
    model: Path | None = None
    server_threads: int = 4
    worker_kind: str = ""
    pipeline: str = ""
    server_processes: int = 1

    @property
    def arguments(self) -> list[str]:
        """The arguments of a serving command."""
        return [
            *([str(self.model)] if self.model else []),
            *(["--worker-kind", self.worker_kind] if self.worker_kind else []),
            *(["--pipeline", self.pipeline] if self.pipeline else []),
            *(["--processes", str(self.server_processes)] if self._has_choice else []),
            *("--engine", self.engine.name),
            *("--server-threads", str(self.server_threads)),
            *("--math-threads", str(self.engine.math_threads)),
            *("--service-time-ms", str(self.engine.service_time_ms)),
            *("--distribution", self.engine.distribution),
        ]

    @property
    def _has_choice(self) -> bool:
        is_thread = (self.worker_kind or self.engine.facts.worker_kind) == "thread"
        return self.server_processes > 1 or (self.mode in MULTIPROCESS_MODES and is_thread)

    def process(
        self, *more: str, port: int = 0, host: str = "", environment: Mapping[str, str] | None = None
    ) -> ServerProcess:
        """Return the server, not started, with more arguments; the rest is as in `ServerProcess.of_mode`."""
        return ServerProcess.of_mode(self.mode, [*self.arguments, *more], port, host, environment)


def end(process: subprocess.Popen[Any], seconds: float) -> None:
    """Ask a process to end; one that does not in time is killed."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class ServerProcess(OwnProcess):
    """`imdb-serving serve`, or another serving command, with the given arguments, on a free port of this host.

    >>> with ServerProcess(["--engine", "none"]) as server:  # doctest: +SKIP
    ...     print(server.endpoint)

    The server also ends when this process does, even by SIGKILL: it watches its standard input.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        command: str = "serve",
        ready_timeout: float = READY_SECONDS,
        apart: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Take the arguments of `imdb-serving COMMAND`; the server starts with the `with` block, or `start`.

        One that is `apart` does not see the terminal's Ctrl-C. `environment` is its own, instead of this process's.
        """
        self._arguments = [command, *arguments, "--exit-with-stdin"]
        if "--port" not in arguments and "--endpoint" not in arguments:
            self._arguments += ["--port", "0"]
        self._ready_timeout, self._apart, self._environment = ready_timeout, apart, environment
        self._errors: IO[str] | None = None
        self.endpoint = ""

    @classmethod
    def of_mode(
        cls,
        mode: str,
        arguments: Sequence[str],
        port: int = 0,
        host: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> ServerProcess:
        """Return a server of one of the `MODES`, on a free port or on this one, of this address of the host.

        Arguments that the mode has as well overrule it.
        """
        command, *own = MODES[mode]
        if own:
            own[1] = own[1].replace("127.0.0.1", host or "127.0.0.1").replace(":0", f":{port}")
        else:
            own = ["--port", str(port), *(["--host", host] if host else [])]
        return cls([*own, *arguments], command=command, environment=environment)

    def start(self) -> ServerProcess:
        """Start the server and wait until it says that it is ready; raise `ServerStartError` with its own words."""
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - lives as long as the server
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        command = [sys.executable, "-m", "imdb_serving", *self._arguments]
        self._process = process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            errors="replace",
            start_new_session=self._apart,
            env={**(os.environ if self._environment is None else self._environment), "PYTHONIOENCODING": "utf-8"},
        )
        output = process.stdout
        assert output is not None  # noqa: S101 - a pipe was asked for
        # A timer rather than a select: the line is one write, and killing the server ends the read.
        timer = threading.Timer(self._ready_timeout, process.kill)
        timer.start()
        try:
            line = output.readline()
        finally:
            timer.cancel()
        if not line.startswith("ready "):
            process.kill()
            process.wait(STOP_SECONDS)
            raise ServerStartError(f"the server did not become ready: {self.errors() or 'it said nothing'}")
        self.endpoint = line.split()[2]

    def errors(self) -> str:
        """Return the last of what the server wrote to standard error."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        return "\n".join(line for line in self._errors.read().splitlines()[-8:] if line.strip())

    def stop(self) -> None:
        """End the server: it answers what is in flight; one that does not end in time is killed."""
        process, self._process = self._process, None
        errors, self._errors = self._errors, None
        if errors is not None:
            errors.close()
        if process is None:
            return
        end(process, STOP_SECONDS)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class KeptServer:
    """A server that is started again, at the same endpoint, when it ends by itself or is killed.

    `on_given_up` is told, once, when it could not be started several times in a row. That it ended once it was ready is
    never a reason: a request may have caused that.
    """

    def __init__(self, arguments: Sequence[str], on_given_up: Callable[[ServerStartError], None]) -> None:
        """Take the arguments of `imdb-serving serve`, without its endpoint."""
        self._arguments, self._on_given_up = list(arguments), on_given_up
        self._server = ServerProcess(arguments, apart=True)
        self._over = threading.Event()
        self._restarter = threading.Thread(target=self._restart, name="keep-server", daemon=True)

    def start(self) -> str:
        """Start it; return its endpoint. Raises `ServerStartError` when it does not start, or is stopped meanwhile."""
        self._endpoint = self._server.start().endpoint
        self._restarter.start()
        return self._endpoint

    def stop(self) -> None:
        """End it, also while it starts."""
        self._over.set()
        if self._restarter.is_alive():
            self._restarter.join(READY_SECONDS)
        self._server.stop()

    def _restart(self) -> None:
        failed, short, started = 0, 0, monotonic()
        while not self._over.wait(KEEP_SECONDS):
            if self._server.running:
                continue
            if failed > MAX_TRIES:
                self._on_given_up(
                    ServerStartError(f"the server at {self._endpoint} did not start {failed} times in a row")
                )
                return
            short = 0 if monotonic() > started + SOUND_SECONDS else min(short + 1, MAX_TRIES)
            log.warning("the server at %s has ended and is started again", self._endpoint)
            self._server.stop()
            if self._over.wait(KEEP_SECONDS * 2**short):
                return
            started = monotonic()
            self._server = ServerProcess([*self._arguments, "--endpoint", self._endpoint], apart=True)
            try:
                self._server.start()
                failed = 0
            except ServerStartError as error:
                failed += 1
                log.error("it did not start: %s", error)  # noqa: TRY400 - the trace is the server's, not ours
