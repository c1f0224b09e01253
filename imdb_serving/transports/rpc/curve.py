"""CURVE: RPC over ZeroMQ that is encrypted, between a server and clients that know each other's public keys.

A server has a folder of its clients' public keys; who is not in it gets nothing through. The folder is looked at for
each new connection, so a key that is put there or taken away counts for the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator

from imdb_serving.errors import ConfigError
from imdb_serving.transports.keys import Credentials, parse_key, read_regular, read_secret, write_secret
from imdb_serving.transports.rpc.allowed import Allowed

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
    public, secret = parse_key(path, read_secret(path).encode("ascii"))
    if secret is None:
        raise ConfigError(f"{path} has no secret key; the secret file is the one that ends in {SECRET}")
    return public, secret


class Authenticator(ThreadAuthenticator):
    """ZeroMQ's, with the clients that a server knows."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allowed: Allowed) -> None:
        """Start it."""
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
    public, secret = _pair(keys.secret)
    allowed = Allowed(keys.clients)
    router.curve_publickey, router.curve_secretkey, router.curve_server = public, secret, True
    router.zap_domain = ALL.encode()
    return Authenticator(context, allowed)


def guard_client(dealer: zmq.Socket[bytes], shown: Credentials) -> None:
    """Have a socket, before it connects, speak to the one server alone; raise `ConfigError` when a key is missing."""
    if shown.client_key is None or shown.server_key is None:
        raise ConfigError("a client needs both its own secret key and the server's public one")
    dealer.curve_publickey, dealer.curve_secretkey = _pair(shown.client_key)
    try:
        dealer.curve_serverkey = parse_key(shown.server_key, read_regular(shown.server_key)).public
    except OSError as error:
        raise ConfigError(f"cannot read the key {shown.server_key}: {error.strerror}") from None
