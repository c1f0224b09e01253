"""A command as a server: a process group of its own, ready by probe, and ended with every process that came of it."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlsplit

import psutil

from imdb_serving.errors import ConfigError, ServerStartError
from imdb_serving.foreign.templates import hide
from imdb_serving.processes import OwnProcess

GUARD = Path(__file__).with_name("guard.py")
END_SECONDS = 5.0
"""How long the processes of a server have to end by themselves."""

MOST_OUTPUT = 16 << 20
LAST_LINES, LAST_BYTES = 12, 1 << 14
PAUSE_SECONDS = 0.05
OF_A_SHELL = {"&&", "||", "|", ";", ">", ">>", "<", "&", "2>&1"}


def words_of(command: str) -> list[str]:
    """Return a command's words as a shell has them; raise `ConfigError` for what only a shell understands."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"server.command: {error} in {command!r}") from None
    if not words:
        raise ConfigError("server.command: it is empty")
    if found := OF_A_SHELL.intersection(words):
        raise ConfigError(f"server.command: {min(found)!r} is for a shell; write sh -c '...', or leave it out")
    return words


def has_program(name: str, environment: Mapping[str, str] | None = None) -> bool:
    """Tell whether a server's command would find a program."""
    return shutil.which(name, path=(environment or environment_with({}))["PATH"]) is not None


def environment_with(own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command: ours, with programs beside this Python found first, and its own."""
    path = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))
    return {**os.environ, "PATH": path, **own}


class CommandProcess(OwnProcess):
    """A server that a command starts. Whatever ends this process, the server and all its children end as well.

    `output` is the file that it writes to; `secrets` are never shown, and when the server has ended not in the file
    either.
    """

    def __init__(
        self,
        command: str,
        output: Path,
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        secrets: Collection[str] = (),
    ) -> None:
        """Take the command; raise `ConfigError` when its program is not there."""
        self._words = words_of(command)
        self._environment = environment_with(environment or {})
        self._directory = directory or Path.cwd()
        if not self._directory.is_dir():
            raise ConfigError(f"server.directory: there is no folder {self._directory}")
        program = self._words[0]
        beside = self._directory / program if "/" in program else None
        if not (beside and beside.is_file()) and not has_program(program, self._environment):
            raise ConfigError(f"server.command: there is no program {hide(program, secrets)!r} here; install it")
        self.output, self._secrets = output, secrets

    def start(self) -> None:
        """Start the command; what it says is in the output file from now on."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        guard = [sys.executable, "-I", "-S", str(GUARD), str(END_SECONDS), str(self.output), str(MOST_OUTPUT)]
        descriptor = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(
                [*guard, *self._words],
                stdin=subprocess.PIPE,
                stdout=descriptor,
                stderr=descriptor,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)

    def wait_until(self, is_ready: Callable[[], str], seconds: float) -> None:
        """Probe the server until `is_ready` says nothing; it returns what is missing.

        Raises `ServerStartError`, with the last of what the server said, when it has ended or the time is up.
        """
        deadline = monotonic() + seconds
        while missing := is_ready():
            if not self.running:
                raise ServerStartError(f"the server's command ended at once{self.said()}")
            if monotonic() > deadline:
                raise ServerStartError(f"the server was not ready in {seconds:g} s: {missing}{self.said()}")
            sleep(PAUSE_SECONDS)

    def said(self) -> str:
        """Return in words the last of what the server wrote, and where all of it is."""
        with suppress(OSError), self.output.open("rb") as file:
            file.seek(max(0, self.output.stat().st_size - LAST_BYTES))
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
            if lines:
                last = hide("\n".join(lines[-LAST_LINES:]), self._secrets)
                return f"; the last of its output, which is in {self.output}:\n{last}"
        return f"; it wrote nothing to {self.output}"

    def stop(self) -> None:
        """End the server and all its processes; those that do not end in time are killed."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        process.stdin.close()
        try:
            process.wait(END_SECONDS + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._hide_secrets()

    def _hide_secrets(self) -> None:
        if not self._secrets:
            return
        with suppress(OSError):
            text = self.output.read_bytes().decode("utf-8", "surrogateescape")
            if (hidden := hide(text, self._secrets)) != text:
                self.output.write_bytes(hidden.encode("utf-8", "surrogateescape"))

    def __enter__(self) -> CommandProcess:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


def free_port(host: str) -> int:
    """Return a port of this host that nobody listens on now."""
    with socket.socket() as bound:
        bound.bind((host, 0))
        port: int = bound.getsockname()[1]
        return port


def pids_of_port(url: str) -> tuple[int, ...]:
    """Return the processes of this machine that listen on a URL's port, less children of others of them; maybe none."""
    parts = urlsplit(url)
    if not is_this_machine(parts.hostname or ""):
        return ()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    listening: set[int] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections("tcp")):
                listening.add(process.pid)
    roots = set()
    for pid in listening:
        with suppress(psutil.Error):
            if not listening & {parent.pid for parent in psutil.Process(pid).parents()}:
                roots.add(pid)
    return tuple(sorted(roots))


def is_this_machine(host: str) -> bool:
    """Tell whether a host's name or address is this machine's."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    own = {address.address.partition("%")[0] for every in psutil.net_if_addrs().values() for address in every}
    return bool(found) and all(address.startswith("127.") or address in {"::1", *own} for address in found)
