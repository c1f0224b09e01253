"""The clients that a server knows: the public keys in a folder, read by a thread of its own.

The thread that authenticates never opens a file: it asks, waits a second at most, and takes what was read last.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from imdb_serving.errors import ConfigError
from imdb_serving.transports.keys import parse_key, read_regular

log = logging.getLogger(__name__)

SUFFIX = ".key"
READ_SECONDS = 1.0
MAX_FILES = 10_000

Signature = tuple[int, int, int]
"""What changes with a file: its number, size and time."""


class Allowed:
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
        """Read no more."""
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
