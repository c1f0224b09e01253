"""No request ends a server: not one that kills its worker, and not one of very many frames or feeds."""

from __future__ import annotations

import itertools
import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import http_kit as http
import load_kit as load
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.errors import RemoteFailure, ServingError
from imdb_serving.server_process import ServerProcess

DEADLY = """
import os, signal
from imdb_serving.pipeline import Pipeline, imdb_pipeline

class Deadly:
    name = "deadly"
    def run(self, work):
        if any(13 in review for review in work.reviews):
            os.kill(os.getpid(), signal.SIGKILL)

def make(engine, bundle):
    ops = list(imdb_pipeline(engine, bundle).ops)
    return Pipeline([ops[0], Deadly(), *ops[1:]])
"""


@contextmanager
def deadly(mode: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """A server of two worker processes that end at the word 13."""
    (folder / "deadly.py").write_text(DEADLY)
    monkeypatch.chdir(folder)
    arguments = ["--engine", "none", "--worker-kind", "process", "--server-threads", "2", "--pipeline", "deadly:make"]
    with ServerProcess.of_mode(mode, arguments) as server:
        yield server


def same() -> Callable[[], list[int]]:
    return lambda: [13]


def another() -> Callable[[], list[int]]:
    numbers = itertools.count(100)
    return lambda: [13, next(numbers)]


def attack(mode: str, words: Callable[[], list[int]], seconds: float, folder: Path, monkeypatch) -> list[str]:
    """Have one client ask for so long what kills, while another asks good things; what readiness said."""
    said: list[str] = []
    killers = 0
    with deadly(mode, folder, monkeypatch) as server, load.clients_at_work(server.endpoint, 1, 30) as good:
        good.more(5)
        with connect(server.endpoint, 30) as killer:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                with pytest.raises(RemoteFailure, match="two workers died while working on this request"):
                    killer.predict({"words": words()})
                killers += 1
                with connect(server.endpoint, 5) as newcomer:
                    try:
                        said += newcomer.hello().warnings
                    except ServingError as error:
                        said.append(str(error))
        good.more(20)
        with connect(server.endpoint, 5) as newcomer:
            assert wait_until(lambda: newcomer.hello().workers_ready == 2, 60)
            assert (newcomer.hello().pid, newcomer.hello().given_up) == (server.pid, ())
    assert set(good.outcomes) == {"answered"}, good.texts
    print(f"{mode}: {killers} requests that kill; {good.answered} good ones answered in {max(good.took):.2f} s at most")
    return said


@pytest.mark.parametrize(("mode", "words"), load.some(
    [(mode, words) for mode in load.MODES for words in (same, another)], [("rpc", same), ("flask", another)],
))  # fmt: skip
def test_requests_that_kill_their_worker_cost_nobody_else_an_answer(mode, words, tmp_path, monkeypatch) -> None:
    said = attack(mode, words(), 5, tmp_path, monkeypatch)
    assert any("workers that died or hung while working on a request" in word for word in said)
    assert any("requests refused because they killed 2 workers" in word for word in said)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", load.MODES)
def test_so_it_is_for_ten_minutes(mode, tmp_path, monkeypatch) -> None:
    attack(mode, another(), float(os.environ.get("KILL_SECONDS", "600")), tmp_path, monkeypatch)


def test_a_flood_of_requests_that_kill_waits_behind_all_others(tmp_path, monkeypatch) -> None:
    """One client has 100 different ones under way; the good one is answered between them."""
    told: list[list[bytes]] = []
    with deadly("rpc", tmp_path, monkeypatch) as server, kit.raw_socket(server.endpoint) as killer:
        for number in range(100):
            body = struct.pack("<2q", 13, number)
            words = {**kit.WORDS, "shape": [2], "lengths": [2]}
            killer.send_multipart([*kit.raw_message(id=number, feed=[words], deadline_ms=60_000)[:2], body])
        with load.clients_at_work(server.endpoint, 1, 60) as good:
            good.more(50)
        while killer.poll(0):
            told.append(killer.recv_multipart())
        assert len(told) < 100
        assert set(good.outcomes) == {"answered"}, good.texts


EXITING = """
import os
from imdb_serving.pipeline import Pipeline, imdb_pipeline

class Exiting:
    name = "exiting"
    def run(self, work):
        if any(13 in review for review in work.reviews):
            os._exit(3)
        if any(14 in review for review in work.reviews):
            raise SystemExit(3)

def make(engine, bundle):
    ops = list(imdb_pipeline(engine, bundle).ops)
    return Pipeline([ops[0], Exiting(), *ops[1:]])
"""


@pytest.mark.timeout(200)
@pytest.mark.slow
def test_a_gateway_outlives_requests_that_end_the_server_behind_it(tmp_path, monkeypatch) -> None:
    """With thread workers a request may end the whole server, as often as it comes."""
    (tmp_path / "exiting.py").write_text(EXITING)
    monkeypatch.chdir(tmp_path)
    arguments = ["--engine", "none", "--worker-kind", "thread", "--server-threads", "2", "--pipeline", "exiting:make"]
    with http.server(*arguments, command="flask-gateway") as server:

        def is_answered() -> bool:
            return http.post(server.endpoint, X_Request_Timeout="2").status == 200

        for _ in range(6):
            assert wait_until(is_answered, 60)
            assert http.post(server.endpoint, b'{"words":[13],"fetch":["prediction"]}').status in {503, 504}
        assert wait_until(is_answered, 60)


@pytest.mark.parametrize("mode", load.some(load.MODES, ["socket"]))
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_an_op_that_exits_costs_its_request_alone(mode: str, kind: str, tmp_path, monkeypatch) -> None:
    (tmp_path / "exiting.py").write_text(EXITING)
    monkeypatch.chdir(tmp_path)
    arguments = ["--engine", "none", "--worker-kind", kind, "--server-threads", "2", "--pipeline", "exiting:make"]
    with ServerProcess.of_mode(mode, arguments) as server, connect(server.endpoint, 10) as client:
        for _ in range(5):
            with pytest.raises(RemoteFailure, match="its log says why"):
                client.predict({"words": [14]})
            assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
        assert client.hello().warnings == ()


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_message_of_many_frames_is_refused_and_ends_nothing(kind: str) -> None:
    with ServerProcess(["--engine", "none", "--worker-kind", kind, "--server-threads", "2"]) as server:
        before = kit.workers(server.pid)
        with kit.raw_socket(server.endpoint) as client:
            for number, frames in enumerate([67, 1020, 1030, 20_000] * 3):
                client.send_multipart([*kit.raw_message(id=number)[:2], *[b""] * frames])
                answer = kit.read_answer(client.recv_multipart())
                assert (answer["id"], answer["code"]) == (number, "bad_request")
                assert "frames: at most 64 feeds" in answer["message"]
            client.send_multipart(kit.raw_message(id=99))
            assert kit.read_answer(client.recv_multipart())["kind"] == "answer"
        assert kit.workers(server.pid) == before


BODIES: list[dict[str, object]] = [
    {f"name{number}": [1] for number in range(1100)},
    {"feed": [{f"name{number}": [1] for number in range(1100)}]},
    {"feed": [{"words": [1]}, {f"name{number}": [1] for number in range(1100)}]},
    {"words": [1], "fetch": [f"name{number}" for number in range(1100)]},
]


def test_a_body_of_many_names_is_refused_and_ends_nothing() -> None:
    with http.server("--engine", "none", "--worker-kind", "process", "--server-threads", "2") as server:
        before = kit.workers(server.pid)
        for body in BODIES * 3:
            response = http.post(server.endpoint, json.dumps({"fetch": ["prediction"], **body}).encode())
            assert "at most 64" in http.assert_problem(response, 422, "bad_request")
        assert http.post(server.endpoint).status == 200
        assert kit.workers(server.pid) == before


@pytest.mark.parametrize("mode", load.MODES)
def test_hello_tells_how_many_feeds_a_request_may_have(mode: str) -> None:
    with load.simulated(mode, 1, 1, "thread") as server, connect(server.endpoint, 10) as client:
        assert client.hello().max_feeds == 64
