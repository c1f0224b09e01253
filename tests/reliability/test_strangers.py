"""Who is not known gets nothing through: keys over ZeroMQ, a token over HTTP, and secrets that stay secret."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import http_kit as http
import load_kit as load
import pytest
import rpc_kit as kit
import zmq

from imdb_serving.clients.connect import connect
from imdb_serving.errors import BadRequest, ConfigError, ServerUnavailable, Unauthorized
from imdb_serving.keys import Credentials, parse_key, read_token, write_secret
from imdb_serving.server.rpc import curve
from imdb_serving.server_process import ServerProcess

NULL = ["--engine", "none", "--server-threads", "1"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "imdb_serving", *arguments],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def keys() -> Iterator[Path]:
    """A folder of keys: alice is known, mallory has keys of her own."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "keys"
        done = run("keys", str(folder), "--client", "alice", "--client", "mallory")
        assert done.returncode == 0, done.stderr
        (folder / "clients" / "mallory.key").unlink()
        yield folder


def shown_by(keys: Path, name: str, server: str = "server") -> Credentials:
    return Credentials(keys / f"{name}.key_secret", keys / f"{server}.key")


@pytest.fixture(params=["tcp", "ipc"])
def guarded(keys: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server that lets alice in."""
    endpoint = "tcp://127.0.0.1:0" if request.param == "tcp" else f"ipc://{keys}/socket"
    arguments = ["--server-key", str(keys / "server.key_secret"), "--client-keys", str(keys / "clients")]
    with ServerProcess([*NULL, *arguments, "--endpoint", endpoint]) as server:
        yield server


def test_a_known_client_is_answered_and_an_unknown_one_told(guarded: ServerProcess, keys: Path) -> None:
    with connect(guarded.endpoint, 20, credentials=shown_by(keys, "alice")) as client:
        for _ in range(3):
            assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
        for credentials, words in (
            (shown_by(keys, "mallory"), "does not know this client's key"),
            (Credentials(), "this client has none|it may ask for keys"),
            (shown_by(keys, "alice", "mallory"), "not the server whose public key"),
        ):
            with connect(guarded.endpoint, 20, credentials=credentials) as stranger:
                for _ in range(2):
                    with pytest.raises((Unauthorized, ServerUnavailable), match=words):
                        stranger.predict(kit.SAMPLE)
        assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]


def test_a_client_without_our_code_gets_nothing_through(guarded: ServerProcess) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(guarded.endpoint)
        dealer.send_multipart(kit.raw_message())
        dealer.send_multipart([kit.VERSION, b"garbage"])
        assert not dealer.poll(1500)


def test_a_client_is_let_in_and_shut_out_while_the_server_runs(guarded: ServerProcess, keys: Path) -> None:
    known = keys / "clients" / "mallory.key"
    known.write_bytes((keys / "mallory.key").read_bytes())
    try:
        with connect(guarded.endpoint, 20, credentials=shown_by(keys, "mallory")) as client:
            assert client.hello().pid == guarded.pid
    finally:
        known.unlink()
    with connect(guarded.endpoint, 20, credentials=shown_by(keys, "mallory")) as client, pytest.raises(Unauthorized):
        client.hello()


def with_alice(keys: Path, tmp_path: Path) -> Path:
    """A folder of known keys for one test: alice's alone."""
    known = tmp_path / "clients"
    known.mkdir()
    shutil.copy(keys / "clients" / "alice.key", known)
    return known


def spoil(folder: Path) -> None:
    """Put there what is no key."""
    (folder / "empty.key").touch()
    (folder / "cut.key").write_text('metadata\ncurve\n    public-key = "abc')
    (folder / "noise.key").write_bytes(bytes(range(256)) * 4)
    (folder / "large.key").write_bytes(b"#" * (1 << 20))
    (folder / "folder.key").mkdir()
    (folder / "dangling.key").symlink_to(folder / "nothing")
    (folder / "device.key").symlink_to("/dev/zero")
    os.mkfifo(folder / "fifo.key")


def test_bad_files_among_the_keys_are_left_out_and_named(keys: Path, tmp_path: Path) -> None:
    """One of them shut out every new client, and a FIFO hung the server for good."""
    known = with_alice(keys, tmp_path)
    spoil(known)
    arguments = [*NULL, "--server-key", str(keys / "server.key_secret"), "--client-keys", str(known)]
    with ServerProcess(arguments) as server:
        for _ in range(3):
            with connect(server.endpoint, 10, credentials=shown_by(keys, "alice")) as client:
                assert client.hello().pid == server.pid
        with connect(server.endpoint, 10, credentials=shown_by(keys, "mallory")) as client, pytest.raises(Unauthorized):
            client.hello()
        errors = server._errors
        assert errors is not None
        errors.seek(0)
        told = errors.read()
        for path in known.iterdir():
            assert (told.count(str(path)) == 1) == (path.name != "alice.key"), path
        process = server._process
        assert process is not None
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize("name", ["alice.key_secret", "server.key", "http.token"])
def test_a_fifo_in_place_of_a_key_is_refused_at_once(keys: Path, tmp_path: Path, name: str) -> None:
    os.mkfifo(fifo := tmp_path / name, 0o600)
    pair = {"alice.key_secret": keys / "alice.key_secret", "server.key": keys / "server.key"}
    shown = Credentials(token_file=fifo) if name == "http.token" else Credentials(*{**pair, name: fifo}.values())
    with pytest.raises(ConfigError, match="it is not a regular file"):
        connect("http://127.0.0.1:1" if name == "http.token" else "tcp://127.0.0.1:1", credentials=shown)


def test_a_folder_that_cannot_be_read_in_time_keeps_those_in_that_were_known(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = with_alice(keys, tmp_path)
    reader = curve.AllowedClients(known)
    public = parse_key(keys, (keys / "alice.key").read_bytes()).public
    assert reader.callback("", public)
    monkeypatch.setattr(curve, "READ_SECONDS", 0.05)
    slow = threading.Event()
    monkeypatch.setattr(curve, "read_regular", lambda path: slow.wait(20) and path.read_bytes())
    (known / "another.key").write_text("not read yet", encoding="ascii")
    assert reader.callback("", public)
    assert "cannot be read in time" in caplog.text
    slow.set()
    reader.close()


def test_a_key_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ConfigError, match="No space left on device"):
        write_secret(tmp_path / "a.key", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_key_file_is_never_written_over_where_there_are_no_links(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    write_secret(tmp_path / "a.key", "first")
    with pytest.raises(ConfigError, match="is there already"):
        write_secret(tmp_path / "a.key", "second")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]


def test_a_client_with_keys_is_told_of_a_server_without(keys: Path) -> None:
    with (
        ServerProcess(NULL) as server,
        connect(server.endpoint, 20, credentials=shown_by(keys, "alice")) as client,
        pytest.raises(Unauthorized, match=r"it has no keys|not the server"),
    ):
        client.predict(kit.SAMPLE)


def test_secrets_are_for_their_owner_alone_and_never_written_over(keys: Path) -> None:
    for name in ("server.key_secret", "alice.key_secret", "http.token"):
        assert (keys / name).stat().st_mode & 0o777 == 0o600
    assert keys.stat().st_mode & 0o777 == 0o700
    before = {path: path.read_bytes() for path in keys.iterdir() if path.is_file()}
    done = run("keys", str(keys), "--client", "alice")
    assert (done.returncode, "is there already" in done.stderr) == (2, True)
    assert run("keys", str(keys), "--client", "carol").returncode == 0
    assert {path: path.read_bytes() for path in before} == before
    for name in ("../up", "server", "", "a b"):
        assert run("keys", str(keys), "--client", name).returncode == 2


@pytest.mark.parametrize("name", ["alice.key_secret", "http.token"])
def test_a_secret_that_others_can_read_is_refused(keys: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / name
    copy.write_bytes((keys / name).read_bytes())
    copy.chmod(0o644)
    shown = Credentials(token_file=copy) if name == "http.token" else Credentials(copy, keys / "server.key")
    endpoint = "http://127.0.0.1:1" if name == "http.token" else "tcp://127.0.0.1:1"
    with pytest.raises(ConfigError, match="can be read by others; chmod 600"):
        connect(endpoint, credentials=shown)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--server-key", "{}/server.key_secret"], "go together"),
        (["serve", "--client-keys", "{}/clients"], "go together"),
        (["serve", "--server-key", "{}/server.key", "--client-keys", "{}/clients"], "server.key"),
        (["serve", "--server-key", "{}/no", "--client-keys", "{}/clients"], "cannot read {}/no"),
        (["serve", "--server-key", "{}/server.key_secret", "--client-keys", "{}/no"], "there is no folder {}/no"),
        (["serve", "--server-key", "{}/http.token", "--client-keys", "{}/clients"], "http.token"),
        (
            ["serve", "--endpoint", "socket://127.0.0.1:0",
             "--server-key", "{}/server.key_secret", "--client-keys", "{}/clients"],
            "keys are for ZeroMQ",
        ),
        (["serve", "--token-file", "{}/http.token"], "is for HTTP"),
        (["flask", "--server-key", "{}/server.key_secret", "--client-keys", "{}/clients"], "are for RPC"),
        (["flask", "--token-file", "{}/no"], "cannot read {}/no"),
        (["flask", "--token-file", "{}/server.key_secret"], "must hold one token"),
    ],
)  # fmt: skip
def test_wrong_keys_are_told(arguments: list[str], words: str, keys: Path) -> None:
    done = run(*(part.format(keys) for part in arguments), "--engine", "none")
    assert done.returncode == 2
    assert words.format(keys) in done.stderr
    assert "Traceback" not in done.stderr
    for secret in ("server.key_secret", "http.token"):  # never shown, not even in part
        for word in re.findall(r"[^\s\"=]{20,}", (keys / secret).read_text()):
            assert word not in done.stderr


def test_keys_are_no_use_over_a_plain_socket(keys: Path) -> None:
    with pytest.raises(BadRequest, match="keys are for ZeroMQ"):
        connect("socket://127.0.0.1:1", credentials=shown_by(keys, "alice"))


@pytest.mark.parametrize("command", load.some(["flask", "flask-gateway", "flask-dev"], ["flask", "flask-dev"]))
def test_over_http_only_who_shows_the_token_is_answered(command: str, keys: Path) -> None:
    token = read_token(keys / "http.token")
    with http.server(*NULL, "--token-file", str(keys / "http.token"), command=command) as server:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {token}"},
            {"Authorization": token},
        ):
            refused = http.post(server.endpoint, **headers)
            http.assert_problem(refused, 401, "unauthorized")
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert http.ask(server.endpoint).status == 401
        assert http.post(server.endpoint, Authorization=f"Bearer {token}").status == 200
        for path in ("live", "ready"):
            health = http.ask(server.endpoint, path=f"/health/{path}")
            assert (health.status, "server" in health.json()) == (200, False)
        with connect(server.endpoint, 20, credentials=Credentials(token_file=keys / "http.token")) as client:
            assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
            assert client.hello().engine == "none"
        with connect(server.endpoint, 20) as stranger:
            for ask in (stranger.hello, lambda: stranger.predict(kit.SAMPLE)):
                with pytest.raises(Unauthorized):
                    ask()


def test_a_gateway_shows_its_keys_to_the_server_it_asks(keys: Path) -> None:
    arguments = ["--server-key", str(keys / "server.key_secret"), "--client-keys", str(keys / "clients")]
    with ServerProcess([*NULL, *arguments]) as server:
        shown = [
            "--rpc-client-key",
            str(keys / "alice.key_secret"),
            "--rpc-server-public-key",
            str(keys / "server.key"),
        ]
        with http.server("--rpc", server.endpoint, *shown, command="flask-gateway") as gateway:
            assert http.post(gateway.endpoint).status == 200
        done = run("flask-gateway", "--rpc", server.endpoint, "--port", "0")
        assert done.returncode == 2
        assert "refuses this client" in done.stderr or "may ask for keys" in done.stderr


def test_status_shows_its_keys(keys: Path) -> None:
    arguments = ["--server-key", str(keys / "server.key_secret"), "--client-keys", str(keys / "clients")]
    with ServerProcess([*NULL, *arguments]) as server:
        shown = ["--client-key", str(keys / "alice.key_secret"), "--server-public-key", str(keys / "server.key")]
        assert "engine              none" in run("status", server.endpoint, *shown).stdout
        errors = run("status", server.endpoint).stderr
        assert "refuses this client" in errors or "may ask for keys" in errors


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        (["serve", "--host", "0.0.0.0"], True),
        (["serve", "--endpoint", "socket://0.0.0.0:0"], True),
        (["flask", "--host", "0.0.0.0"], True),
        (["serve"], False),
        (["flask"], False),
        (["serve", "--endpoint", "ipc://*"], False),
        (["serve", "--host", "0.0.0.0", "--server-key", "{}/server.key_secret", "--client-keys", "{}/clients"], False),
        (["flask", "--host", "0.0.0.0", "--token-file", "{}/http.token"], False),
    ],
)
def test_a_server_that_anybody_can_reach_says_so(arguments: list[str], warned: bool, keys: Path) -> None:
    command, *others = (part.format(keys) for part in arguments)
    port = [] if "--endpoint" in others else ["--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "imdb_serving", command, *others, *port, *NULL],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready ")
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert ("anybody who can reach" in errors) == warned
