"""Key and token files: written for their owner only, and read only when nobody else can read them. No sockets.

CURVE keys are in ZeroMQ's own certificate files: a public one (`NAME.key`) and a secret one (`NAME.key_secret`).
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from codecs import BOM_UTF8
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from imdb_serving.errors import ConfigError

SECRET_MODE = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO
TOKEN_BYTES = 32
SHORTEST_TOKEN = 16
MAX_KEY_BYTES = 1 << 14
PUBLIC, SECRET = ".key", ".key_secret"
_KEY = re.compile(rb'^[ \t]*(public|secret)-key[ \t]*=[ \t]*"([!-~]{40})"[ \t]*\r?$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client shows a server: its own secret key file and the server's public one (CURVE), or a token's file."""

    client_key: Path | None = None
    server_key: Path | None = None
    token_file: Path | None = None


NOBODY = Credentials()


class KeyPair(NamedTuple):
    """A public CURVE key and, from a secret file, the secret one; 40 characters each."""

    public: bytes
    secret: bytes | None


def write_secret(path: Path, text: str) -> None:
    """Write a new file that only its owner can read; raise `ConfigError` when there is one already.

    It is there whole or not at all: it is written under another name first, which no server reads.
    """
    begun = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
    try:
        try:
            with open(os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE), "w", encoding="ascii") as file:  # noqa: PTH123 - with a mode from its first moment
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            _give_name(begun, path)
        finally:
            begun.unlink(missing_ok=True)
    except FileExistsError:
        raise ConfigError(f"{path} is there already, and keys are not written over; move it away first") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _give_name(begun: Path, path: Path) -> None:
    """Give a file its name; raise `FileExistsError` when that is another one's."""
    try:
        os.link(begun, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists() or path.is_symlink():
            raise FileExistsError(path) from None
        begun.rename(path)


def read_regular(path: Path, *, private: bool = False) -> bytes:
    """Read a small regular file, at once; raise `OSError` for anything else, which could keep a reader waiting.

    A `private` one must be readable by its owner alone, else `ConfigError` is raised.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if facts.st_size > MAX_KEY_BYTES:
            raise OSError(errno.EFBIG, f"it has more than {MAX_KEY_BYTES} bytes", str(path))
        if private and os.name == "posix" and facts.st_mode & OTHERS:
            raise ConfigError(f"{path} can be read by others; chmod 600 {path}")
        return os.read(descriptor, MAX_KEY_BYTES)
    finally:
        os.close(descriptor)


def read_secret(path: Path) -> str:
    """Read a file that only its owner can read; raise `ConfigError`, which does not say what is in it."""
    try:
        return read_regular(path, private=True).removeprefix(BOM_UTF8).decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no key and no token") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def parse_key(path: Path, data: bytes) -> KeyPair:
    """Return the keys in the bytes of ZeroMQ's certificate file; raise `ConfigError` when there is no public one."""
    found = dict(_KEY.findall(data))
    public, secret = found.get(b"public"), found.get(b"secret")
    if public is None or (secret is None and b"secret-key" in data):
        raise ConfigError(f"{path} holds no CURVE key; make one with `imdb-serving keys`")
    return KeyPair(public, secret)


def make_token() -> str:
    """Return a new bearer token."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def read_token(path: Path) -> str:
    """Read a bearer token: one line, at least 16 printable characters."""
    token = read_secret(path).strip()
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise ConfigError(f"{path} must hold one token of at least {SHORTEST_TOKEN} printable characters")
    return token


def read_pair(path: Path) -> tuple[bytes, bytes]:
    """Return the public and the secret key in a secret file; raise `ConfigError` for any other file."""
    public, secret = parse_key(path, read_secret(path).encode("ascii"))
    if secret is None:
        raise ConfigError(f"{path} has no secret key; the secret file is the one that ends in {SECRET}")
    return public, secret
