"""Servers of both carriers: a test of this folder that asks for a server runs over ZeroMQ and over a plain socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import rpc_kit as kit

from imdb_serving.server_process import ServerProcess


@pytest.fixture(scope="module", params=kit.CARRIERS, ids=lambda carrier: carrier.mode)
def carrier(request: pytest.FixtureRequest) -> kit.Carrier:
    """What carries the messages."""
    found: kit.Carrier = request.param
    return found


@pytest.fixture
def start_server(carrier: kit.Carrier) -> Iterator[Callable[..., ServerProcess]]:
    """A function that starts `imdb-serving serve` with arguments, on a free port or a given one."""
    with ExitStack() as stack:

        def start(*arguments: str, port: int = 0) -> ServerProcess:
            server = ServerProcess([*arguments, "--endpoint", carrier.endpoint(port)], ready_timeout=60)
            return stack.enter_context(server)

        yield start


@pytest.fixture(scope="module")
def null_server(carrier: kit.Carrier) -> Iterator[ServerProcess]:
    """A server that answers at once, shared by a module's tests."""
    arguments = ["--engine", "none", "--server-threads", "2", "--endpoint", carrier.endpoint()]
    with ServerProcess(arguments, ready_timeout=60) as server:
        yield server


@pytest.fixture(scope="module")
def paddle_server(bundle: Path, carrier: kit.Carrier) -> Iterator[ServerProcess]:
    """A server of the small CNN with two workers, shared by a module's tests."""
    arguments = [str(bundle), "--server-threads", "2", "--endpoint", carrier.endpoint()]
    with ServerProcess(arguments, ready_timeout=60) as server:
        yield server
