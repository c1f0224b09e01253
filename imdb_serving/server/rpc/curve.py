"""CURVE: encrypted RPC over ZeroMQ between a server and clients that know each other's public keys.

A server has a folder with its clients' public keys; no other client gets through. The folder is read again for each new
connection, so a key that is added or removed counts for the next one. A thread of its own reads the files: the thread
that authenticates waits a second at most, and uses what was read last.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator

from imdb_serving.errors import ConfigError
from imdb_serving.keys import PUBLIC, SECRET, parse_key, read_pair, read_regular, write_secret

log = logging.getLogger(__name__)

SUFFIX = ".key"
READ_SECONDS = 1.0
MAX_FILES = 10_000

Signature = tuple[int, int, int]
"""What changes with a file: its number, size and time."""


class AllowedClients:
    """The public keys in a folder, as ZeroMQ's authenticator asks for them."""

    def __init__(self, folder: Path) -> None:
        """Take the folder and begin to read; raise `ConfigError` when there is none."""
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder} of the clients' public keys; `imdb-serving keys` makes one")
        self._folder = folder
        self._known: dict[str, tuple[Signature, bytes | None]] = {}  # a key by its file's name; None for a bad file
        self._keys: frozenset[bytes] = frozenset()
        self._changed = threading.Condition()
        self._asked = self._read = 0
        self._closed = False
        threading.Thread(target=self._serve, name="keys", daemon=True).start()

    def callback(self, _domain: str, key: bytes) -> bool:
        """Tell whether a key is known, by the folder as it is now; if that cannot be read in time, as it was."""
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._read >= asked, READ_SECONDS):
                log.warning("the clients' keys in %s cannot be read in time; those read before count", self._folder)
        known = key in self._keys
        if not known:
            log.warning("a client with the unknown key %s is refused", key.decode("ascii", "replace"))
        return known

    def close(self) -> None:
        """Stop reading the folder."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._asked > self._read)
                if self._closed:
                    return
                asked = self._asked
            keys = self._look()
            with self._changed:
                self._keys, self._read = keys, asked
                self._changed.notify_all()

    def _look(self) -> frozenset[bytes]:
        """Return the keys in the folder; files that have not changed are not read again, and bad ones are named."""
        found: dict[str, tuple[Signature, bytes | None]] = {}
        try:
            names = sorted(path.name for path in self._folder.iterdir() if path.suffix == SUFFIX)
        except OSError as error:
            log.warning("the clients' keys cannot be read: %s; no client is let in", error)
            names = []
        if len(names) > MAX_FILES:
            log.warning("%s has %d keys; only the first %d are read", self._folder, len(names), MAX_FILES)
        for name in names[:MAX_FILES]:
            found[name] = self._look_at(name)
        self._known = found
        return frozenset(key for _, key in found.values() if key)

    def _look_at(self, name: str) -> tuple[Signature, bytes | None]:
        path, signature = self._folder / name, (0, 0, 0)
        before = self._known.get(name)
        try:
            facts = path.stat()
            signature = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
            if before is not None and before[0] == signature:
                return before
            return signature, parse_key(path, read_regular(path)).public
        except (OSError, ConfigError) as error:
            if before is None or before != (signature, None):
                reason = error.strerror if isinstance(error, OSError) else "it holds no CURVE key"
                log.warning("the key file %s is left out: %s", path, reason)
            return signature, None


ALL = "*"


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """A server's own secret file, and the folder of the public keys that it knows."""

    secret: Path
    clients: Path


def make_key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a pair of keys; return the public and the secret file. Raises `ConfigError` when one is there already."""
    public, secret = zmq.curve_keypair()
    files = folder / f"{name}{PUBLIC}", folder / f"{name}{SECRET}"
    shown = f'metadata\ncurve\n    public-key = "{public.decode()}"\n'
    write_secret(files[1], f'{shown}    secret-key = "{secret.decode()}"\n')
    write_secret(files[0], shown)
    return files


class Authenticator(ThreadAuthenticator):
    """ZeroMQ's, with the clients that a server knows."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allowed: AllowedClients) -> None:
        super().__init__(context)
        self._clients = allowed
        self.start()
        self.configure_curve_callback(ALL, allowed)

    def stop(self) -> None:
        """Let nobody in any more."""
        super().stop()
        self._clients.close()


def guard_server(router: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys) -> Authenticator:
    """Have a socket, before it is bound, speak to known clients alone; return what is to be stopped at the end."""
    public, secret = read_pair(keys.secret)
    allowed = AllowedClients(keys.clients)
    router.curve_publickey, router.curve_secretkey, router.curve_server = public, secret, True
    router.zap_domain = ALL.encode()
    return Authenticator(context, allowed)
