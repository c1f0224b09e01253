"""CURVE: RPC over ZeroMQ that is encrypted, between a server and clients that know each other's public keys.

A server has a folder of its clients' public keys; who is not in it gets nothing through. The folder is read at each new
connection, so a key that is put there or taken away counts for the next one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.auth import load_certificate, load_certificates
from zmq.auth.thread import ThreadAuthenticator

from imdb_serving.errors import ConfigError
from imdb_serving.transports.keys import Credentials, read_secret, write_secret

log = logging.getLogger(__name__)

ALL = "*"
PUBLIC, SECRET = ".key", ".key_secret"


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """A server's own secret file, and the folder of the public keys that it knows."""

    secret: Path
    clients: Path


def make_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a pair of keys; return the public and the secret file. Raises `ConfigError` when one is there already."""
    public, secret = zmq.curve_keypair()
    files = folder / f"{name}{PUBLIC}", folder / f"{name}{SECRET}"
    shown = f'metadata\ncurve\n    public-key = "{public.decode()}"\n'
    write_secret(files[1], f'{shown}    secret-key = "{secret.decode()}"\n')
    write_secret(files[0], shown)
    return files


def _pair(path: Path) -> tuple[bytes, bytes]:
    read_secret(path)
    public, secret = _load(path)
    if secret is None:
        raise ConfigError(f"{path} has no secret key; the secret file is the one that ends in {SECRET}")
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = load_certificate(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the key {path}: {error}") from None
    if any(key is not None and len(key) != 40 for key in (public, secret)):
        raise ConfigError(f"{path} holds no CURVE key; make one with `imdb-serving keys`")
    return public, secret


class Allowed:
    """The public keys in a folder, as ZeroMQ's authenticator asks for them."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; raise `ConfigError` when there is none."""
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder} of the clients' public keys; `imdb-serving keys` makes one")
        self._folder = folder

    def callback(self, _domain: str, key: bytes) -> bool:
        """Tell whether a key is known."""
        try:
            known = key in load_certificates(self._folder)
        except (OSError, ValueError) as error:
            log.warning("the clients' keys cannot be read: %s", error)
            return False
        if not known:
            log.warning("a client with the unknown key %s is refused", key.decode("ascii", "replace"))
        return known


def guard_server(
    router: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys
) -> ThreadAuthenticator:
    """Have a socket, before it is bound, speak to known clients alone; return what is to be stopped at the end."""
    public, secret = _pair(keys.secret)
    allowed = Allowed(keys.clients)
    router.curve_publickey, router.curve_secretkey, router.curve_server = public, secret, True
    router.zap_domain = ALL.encode()
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    authenticator.configure_curve_callback(ALL, allowed)
    return authenticator


def guard_client(dealer: zmq.Socket[bytes], shown: Credentials) -> None:
    """Have a socket, before it connects, speak to the one server alone; raise `ConfigError` when a key is missing."""
    if shown.client_key is None or shown.server_key is None:
        raise ConfigError("a client needs both its own secret key and the server's public one")
    dealer.curve_publickey, dealer.curve_secretkey = _pair(shown.client_key)
    dealer.curve_serverkey = _load(shown.server_key)[0]
