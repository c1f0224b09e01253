"""A client of several servers: takes turns, leaves a dead one without losing a request, and returns to it."""

from __future__ import annotations

from contextlib import ExitStack
from urllib.parse import urlsplit

import load_kit as load
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.errors import BadRequest, ServerUnavailable
from imdb_serving.server_process import ServerProcess

NULL = ["--engine", "none", "--server-threads", "1"]


def null_server(mode: str, port: int = 0) -> ServerProcess:
    return ServerProcess.of_mode(mode, NULL, port)


def pids(client, count: int = 6) -> set[int]:
    """Who answered."""
    return {client.hello().pid for _ in range(count)}


@pytest.mark.parametrize("mode", load.some(load.MODES, ["rpc"]))
def test_a_client_of_several_servers_leaves_a_dead_one_and_returns_to_it(mode: str) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(null_server(mode)) for _ in range(2))
        port = urlsplit(second.endpoint).port
        with (
            connect([first.endpoint, second.endpoint], 20) as client,
            load.clients_at_work(f"{first.endpoint},{second.endpoint}", 3) as clients,
        ):
            assert pids(client) == {first.pid, second.pid}
            clients.more()
            assert second._process is not None
            second._process.kill()
            second._process.wait(10)
            assert pids(client) == {first.pid}
            clients.more(100)
            again = stack.enter_context(null_server(mode, port or 0))
            assert wait_until(lambda: again.pid in pids(client), 30)
            clients.more(100)
        assert set(clients.outcomes) == {"answered"}, clients.texts


@pytest.mark.parametrize("mode", load.some(load.MODES, ["rpc"]))
def test_what_one_server_refuses_another_answers(mode: str) -> None:
    with (
        load.simulated(mode, 300, 1, "thread", "--max-queue", "0") as busy,
        null_server(mode) as free,
        load.clients_at_work(busy.endpoint, 3),
        connect([busy.endpoint, free.endpoint], 20) as client,
    ):
        for _ in range(20):
            assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]


def test_when_all_are_dead_that_is_said_and_the_first_that_is_back_is_found() -> None:
    with null_server("socket") as server:
        port = urlsplit(server.endpoint).port or 0
    with connect([f"socket://127.0.0.1:{port}", "tcp://127.0.0.1:1"], 3) as client:
        for _ in range(2):
            with pytest.raises(ServerUnavailable, match="no server answers at socket://"):
                client.predict(kit.SAMPLE)
        with null_server("socket", port) as server:
            assert client.hello().pid == server.pid


@pytest.mark.parametrize("endpoints", [[], ["socket://127.0.0.1:1", "ftp://127.0.0.1:1"], ""])
def test_what_are_no_endpoints_is_said(endpoints) -> None:
    with pytest.raises(BadRequest):
        connect(endpoints)
