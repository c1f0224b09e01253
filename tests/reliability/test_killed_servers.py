"""A server that is killed or told to end: its clients are told, nothing of it stays, and a new one is found."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import http_kit as http
import load_kit as load
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.errors import RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.server_process import MODES

ENDPOINTS = ["tcp://127.0.0.1:0", "ipc://{}/server", "ipc://*", "socket://127.0.0.1:0", "socket+unix://{}/server"]
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, for sockets."""
    with tempfile.TemporaryDirectory(prefix="t") as made:
        yield Path(made)


@contextmanager
def serving(
    folder: Path, *arguments: str, temporary: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A serving command as from a shell: the process, and its endpoint. What it leaves in `folder` can be looked at."""
    process = subprocess.Popen(
        [sys.executable, "-m", "imdb_serving", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "TMPDIR": str(temporary or folder)},
    )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            yield process, kit.endpoint_of(process.stdout.readline())
        finally:
            process.kill()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


WORKERS = ["--engine", "simulated", "--service-time-ms", "20", "--worker-kind", "process", "--server-threads", "2"]


KILLED = [(endpoint, number) for endpoint in ENDPOINTS for number in SIGNALS]
SHORT = [(endpoint, signal.SIGKILL) for endpoint in (ENDPOINTS[1], ENDPOINTS[4])] + [(ENDPOINTS[0], signal.SIGINT)]


@pytest.mark.parametrize(("endpoint", "number"), load.some(KILLED, SHORT))
def test_nothing_of_a_server_stays_behind(folder: Path, endpoint: str, number: signal.Signals) -> None:
    arguments = ["serve", "--endpoint", endpoint.format(folder), *WORKERS]
    with serving(folder, *arguments) as (process, where), load.clients_at_work(where, 2, 5):
        with connect(where, 20) as client:
            client.predict(kit.SAMPLE)
        family = kit.descendants(process.pid)
        assert len(family) > 2
        process.send_signal(number)
        assert process.wait(20) == (-number if number == signal.SIGKILL else 0)
        assert wait_until(lambda: not kit.alive(family), 20)
        assert wait_until(lambda: not list(folder.iterdir()), 20), list(folder.iterdir())


KILLED_HTTP = [(command, number) for command in ("flask", "flask-gateway", "flask-dev") for number in SIGNALS]
SHORT_HTTP = [("flask-gateway", signal.SIGKILL)]


@pytest.mark.parametrize(("command", "number"), load.some(KILLED_HTTP, SHORT_HTTP))
def test_nothing_of_an_http_server_stays_behind(folder: Path, command: str, number: signal.Signals) -> None:
    with serving(folder, command, "--port", "0", *WORKERS) as (process, where):
        with connect(where, 20) as client:
            client.predict(kit.SAMPLE)
        family = kit.descendants(process.pid)
        process.send_signal(number)
        assert process.wait(30) == (-number if number == signal.SIGKILL else 0)
        assert wait_until(lambda: not kit.alive(family), 30)
        assert wait_until(lambda: not list(folder.iterdir()), 20), list(folder.iterdir())


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:{port}", "socket://127.0.0.1:{port}", "ipc://{folder}/server",
                                      "socket+unix://{folder}/server", "http://127.0.0.1:{port}"])  # fmt: skip
def test_a_client_is_told_of_a_killed_server_and_works_on_with_the_next(folder: Path, endpoint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    endpoint = endpoint.format(folder=folder, port=port)
    where = ["flask", "--port", str(port)] if endpoint.startswith("http") else ["serve", "--endpoint", endpoint]
    arguments = [*where, "--engine", "simulated", "--service-time-ms", "600", "--server-threads", "1"]
    with ExitStack() as stack:
        client = stack.enter_context(connect(endpoint, 30))
        with serving(folder, *arguments) as (process, _), kit.side_by_side(1) as run:
            answer = run(client.predict, kit.SAMPLE)
            assert not wait_until(answer.done, 0.4)
            process.kill()
            error = answer.exception(timeout=20)  # long before its deadline
            assert isinstance(error, ServerUnavailable)
            client.timeout = 0.5
            with pytest.raises(ServerUnavailable):
                client.predict(kit.SAMPLE)
        client.timeout = 30
        with serving(folder, *arguments):
            assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]


def ask_and_tell(endpoint: str) -> str:
    with connect(endpoint, 60) as client:
        try:
            client.predict(kit.SAMPLE)
        except ServingError as error:
            return error.code
        return "answered"


@pytest.mark.parametrize("mode", load.some(load.MODES, ["rpc"]))
def test_a_server_that_ends_answers_or_refuses_all_that_wait(mode: str) -> None:
    waiting = 60  # of 0.4 s each: more than the 10 s that a server takes to end
    server = load.simulated(mode, 400, 1, "thread")
    with server, kit.side_by_side(waiting) as run:
        asked = [run(ask_and_tell, server.endpoint) for _ in range(waiting)]
        assert wait_until(lambda: any(answer.done() for answer in asked), 30)
        process = server._process
        assert process is not None
        process.terminate()
        ends = Counter(answer.result(60) for answer in asked)
        assert process.wait(30) == 0
    assert set(ends) == {"answered", "unavailable"}
    assert ends["answered"] > 5


@pytest.mark.parametrize("mode", ["socket", "flask"])
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_server_may_end_just_when_its_clients_leave(mode: str, kind: str) -> None:
    message = http.message() if mode == "flask" else kit.in_one_piece(kit.raw_message())
    with load.simulated(mode, 0.1, 2, kind) as server:
        where = urlsplit(server.endpoint)
        clients = [socket.create_connection((where.hostname, where.port), 10) for _ in range(60)]
        for client in clients:
            client.sendall(message)
        assert all(client.recv(1 << 16) for client in clients)
        for client in clients[::2]:
            client.sendall(message)  # and its answer will be read by nobody
        for client in clients:
            client.close()
        process = server._process
        assert process is not None
        process.terminate()
        assert (process.wait(30), server.errors()) == (0, "")


@pytest.mark.parametrize("workers", load.some([1, 5, 16], [5]))
def test_a_server_ends_in_time_whatever_its_number_of_workers(workers: int) -> None:
    with load.simulated("rpc", 30, workers) as server, load.clients_at_work(server.endpoint, 8, 5) as clients:
        clients.more()
        process = server._process
        assert process is not None
        process.terminate()
        assert process.wait(30) == 0
    assert set(clients.outcomes) <= {"answered", "unavailable"}, clients.texts


@pytest.mark.parametrize("scheme", ["ipc", "socket+unix"])
def test_a_path_at_which_a_server_listens_is_not_taken_from_it(folder: Path, scheme: str) -> None:
    endpoint = f"{scheme}://{folder}/server"
    arguments = ["--endpoint", endpoint, "--engine", "none", "--server-threads", "1"]
    with serving(folder, "serve", *arguments) as (process, _), connect(endpoint, 20) as client:
        assert client.hello().pid == process.pid
        code, errors = kit.serve_and_fail(*arguments)
        assert (code, "another server listens there; choose another path" in errors) == (2, True)
        with connect(endpoint, 20) as newcomer:
            assert newcomer.hello().pid == client.hello().pid == process.pid


@pytest.mark.parametrize("scheme", ["ipc", "socket+unix"])
def test_a_file_that_a_killed_server_left_is_replaced_and_any_other_left_alone(folder: Path, scheme: str) -> None:
    place = folder / "server"
    arguments = ["--endpoint", f"{scheme}://{place}", "--engine", "none", "--server-threads", "1"]
    place.write_text("precious")
    code, errors = kit.serve_and_fail(*arguments)
    assert (code, "something else is there" in errors, place.read_text()) == (2, True, "precious")
    place.unlink()
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(place))
    with serving(folder, "serve", *arguments) as (process, where), connect(where, 20) as client:
        assert client.hello().pid == process.pid


def test_a_folder_for_temporary_files_may_have_a_long_name(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    with (
        serving(tmp_path, "serve", "--port", "0", *WORKERS, temporary=long) as (_, where),
        connect(where, 20) as client,
    ):
        client.predict(kit.SAMPLE)


def has_version_6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_version_6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_server_listens_on_an_address_of_version_6(folder: Path, mode: str) -> None:
    command = [*MODES[mode]]
    command = (
        ["serve", "--endpoint", "socket://[::1]:0"] if mode == "socket" else [*command, "--host", "::1", "--port", "0"]
    )
    with serving(folder, *command, "--engine", "none", "--server-threads", "1") as (_, where), connect(where) as client:
        assert "[::1]" in where
        assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]


def test_a_host_that_is_none_of_this_machines_is_told() -> None:
    for where in (["--host", "192.0.2.1"], ["--endpoint", "socket://192.0.2.1:0"]):
        code, errors = kit.serve_and_fail("--engine", "none", *where)
        assert code == 2
        assert "choose another" in errors


def test_a_late_server_is_a_timeout_and_no_lost_one() -> None:
    with load.simulated("rpc", 900, 1, "thread") as server, connect(server.endpoint, 0.2) as client:
        with pytest.raises(RequestTimeout):
            client.predict(kit.SAMPLE)
        client.timeout = 20
        assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
