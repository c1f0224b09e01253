"""Keys and tokens in files: made for their owner's eyes alone, read only when nobody else can read them. No sockets.

CURVE keys are in ZeroMQ's own certificate files: a public one (`NAME.key`) and a secret one (`NAME.key_secret`).
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from imdb_serving.errors import ConfigError

SECRET_MODE = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO
TOKEN_BYTES = 32
SHORTEST_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client shows a server: its own secret key file and the server's public one (CURVE), or a token's file."""

    client_key: Path | None = None
    server_key: Path | None = None
    token_file: Path | None = None


NOBODY = Credentials()


def write_secret(path: Path, text: str) -> None:
    """Write a new file that only its owner can read; raise `ConfigError` when there is one already."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE), "w", encoding="ascii") as file:  # noqa: PTH123 - with a mode from its first moment
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} is there already, and keys are not written over; move it away first") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def read_secret(path: Path) -> str:
    """Read a file that only its owner can read; raise `ConfigError`, which does not say what is in it."""
    try:
        if os.name == "posix" and path.stat().st_mode & OTHERS:
            raise ConfigError(f"{path} can be read by others; chmod 600 {path}")
        return path.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no key and no token") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def make_token() -> str:
    """Return a new bearer token."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def read_token(path: Path) -> str:
    """Read a bearer token: one line, at least 16 printable characters."""
    token = read_secret(path).strip()
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise ConfigError(f"{path} must hold one token of at least {SHORTEST_TOKEN} printable characters")
    return token
