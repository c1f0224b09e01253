"""What the tests share: a small model trained once a session, and servers that are gone when a test ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import server_processes
from hypothesis import settings

from imdb_serving.server_process import ServerProcess
from imdb_serving.text.formats import Example
from imdb_serving.text.reviews import Reviews, load

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SMALL = 400
settings.register_profile("any machine", deadline=None)  # a wait for the processor is no failure
settings.load_profile("any machine")

os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*"  # the tests' own requests are to servers on this machine

# What runs in the background ignores Ctrl-C, and so would all that it starts; tests send it as from a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--server-processes", type=int, default=1, help="Processes of each server's worker threads.")


def pytest_configure(config: pytest.Config) -> None:
    server_processes.set_up(config)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The machine's Chromium."""
    from browsing import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def packaged() -> Reviews:
    """The packaged reviews."""
    return load("packaged")


@pytest.fixture(scope="session")
def small_reviews(packaged: Reviews) -> Reviews:
    """A few real reviews, and an empty and a one-word one among those held out."""
    held_out = [*packaged.held_out[:200], Example(label=0, text=""), Example(label=1, text="Great!")]
    return Reviews("small", packaged.train[:SMALL], held_out, packaged.checksum)


MakeBundle = Callable[[str], Path]


@pytest.fixture(scope="session")
def bundle_of(small_reviews: Reviews, tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """A function that trains a small model of a net, once a session, and returns its folder."""
    from imdb_serving.model.training import TrainingPlan, train_bundle

    made: dict[str, Path] = {}

    def make(net: str) -> Path:
        if net not in made:
            folder = tmp_path_factory.mktemp(f"model-{net}")
            train_bundle(TrainingPlan(net=net, epochs=2, window=64), small_reviews, folder)
            made[net] = folder
        return made[net]

    return make


@pytest.fixture(scope="session")
def bundle(bundle_of: MakeBundle) -> Path:
    """The folder of a small trained CNN: holds serving_server_model, serving_client_conf, inference.conf."""
    return bundle_of("cnn")


StartServer = Callable[..., ServerProcess]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """A function that starts `imdb-serving serve` with arguments on a free port; all are stopped afterwards."""
    with ExitStack() as stack:

        def start(*arguments: str) -> ServerProcess:
            return stack.enter_context(ServerProcess(arguments, ready_timeout=60))

        yield start


@pytest.fixture(scope="module")
def null_server() -> Iterator[ServerProcess]:
    """A server that answers at once, shared by a module's tests."""
    with ServerProcess(["--engine", "none", "--server-threads", "2"], ready_timeout=60) as server:
        yield server


@pytest.fixture(scope="module")
def paddle_server(bundle: Path) -> Iterator[ServerProcess]:
    """A server of the small CNN with two workers, shared by a module's tests."""
    with ServerProcess([str(bundle), "--server-threads", "2"], ready_timeout=60) as server:
        yield server
