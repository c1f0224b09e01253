"""`imdb-serving keys`: a folder of keys for a server, its clients, and HTTP."""

from __future__ import annotations

from pathlib import Path

from imdb_serving.errors import ConfigError
from imdb_serving.transports.keys import make_token, write_secret
from imdb_serving.transports.rpc.curve import PUBLIC, SECRET, make_pair

SERVER, CLIENTS, TOKEN = "server", "clients", "http.token"


def make_keys(folder: Path, clients: tuple[str, ...]) -> None:
    """Make what is missing of a server's keys, and a pair for each client; print how they are used."""
    known = folder / CLIENTS
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        known.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {known}: {error.strerror}") from error
    if not (folder / f"{SERVER}{SECRET}").exists():
        make_pair(folder, SERVER)
    if not (folder / TOKEN).exists():
        write_secret(folder / TOKEN, make_token() + "\n")
    for name in clients:
        _check(name)
        public, _ = make_pair(folder, name)
        write_secret(known / public.name, public.read_text(encoding="ascii"))
    print(_usage(folder, clients[0]))


def _check(name: str) -> None:
    if not name.replace("-", "").replace("_", "").isalnum() or name == SERVER:
        raise ConfigError(f"{name!r} cannot be a client's name: letters, digits, - and _, and not {SERVER!r}")


def _usage(folder: Path, client: str) -> str:
    return f"""{folder} holds the keys; what ends in {SECRET} or .token is secret and stays with its owner.
server:  imdb-serving serve MODEL --host 0.0.0.0 --server-key {folder / SERVER}{SECRET} --client-keys {folder / CLIENTS}
client:  imdb-serving client ... --client-key {folder / client}{SECRET} --server-public-key {folder / SERVER}{PUBLIC}
HTTP:    imdb-serving flask MODEL --host 0.0.0.0 --token-file {folder / TOKEN}
To refuse a client, remove its file from {folder / CLIENTS}."""
