"""`kill -9` of workers under load costs no request; who keeps dying is given up, and readiness says so."""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path

import load_kit as load
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.server_process import ServerProcess


def kill_one(server: ServerProcess) -> None:
    """Kill a worker, and wait until another has its place."""
    before = kit.workers(server.pid)
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    assert wait_until(lambda: len(kit.workers(server.pid) - before) == 1, 30)
    assert kit.workers(server.pid) & before == before - {killed}


def killed_so_many_times(mode: str, times: int) -> None:
    with load.simulated(mode, 5, 3) as server, load.clients_at_work(server.endpoint, 6) as clients:
        clients.more()
        for _ in range(times):
            before = clients.answered
            kill_one(server)
            assert clients.answered > before  # by the others, meanwhile
            clients.more()
        with connect(server.endpoint, 10) as client:
            assert wait_until(lambda: client.hello().workers_ready == 3)
    assert set(clients.outcomes) == {"answered"}, clients.texts


@pytest.mark.parametrize("mode", load.MODES)
def test_no_request_is_lost_when_a_worker_is_killed_under_load(mode: str) -> None:
    killed_so_many_times(mode, 3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", load.MODES)
def test_no_request_is_lost_when_many_workers_are_killed_under_load(mode: str) -> None:
    killed_so_many_times(mode, 40)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["none", "folded", "onnxruntime", "paddle"])
def test_how_long_a_killed_worker_is_away(engine: str, bundle: Path) -> None:
    """Prints seconds from a kill until as many workers are ready as before, while clients ask."""
    model = [] if engine == "none" else [str(bundle)]
    away = []
    arguments = [*model, "--engine", engine, "--worker-kind", "process", "--server-threads", "3"]
    with ServerProcess(arguments) as server, connect(server.endpoint, 30) as client:
        answer = client.predict(kit.SAMPLE)["prediction"]
        with load.clients_at_work(server.endpoint, 4, answer=answer) as clients:
            clients.more()
            for _ in range(20):
                killed = time.perf_counter()
                kill_one(server)
                assert wait_until(lambda: client.hello().workers_ready == 3, 30)
                away.append(time.perf_counter() - killed)
                clients.more()
    assert set(clients.outcomes) == {"answered"}, clients.texts
    print(f"{engine}: a killed worker was away for {statistics.median(away):.2f} s, at most {max(away):.2f} s")


@pytest.mark.parametrize("mode", load.some(load.MODES, ["rpc"]))
def test_a_worker_that_hangs_under_load_fails_its_request_alone(mode: str) -> None:
    with load.simulated(mode, 50, 3) as server, load.clients_at_work(server.endpoint, 6, 2.0) as clients:
        clients.more()
        before = kit.workers(server.pid)
        hung = min(before)
        os.kill(hung, signal.SIGSTOP)
        replaced = wait_until(lambda: len(kit.workers(server.pid) - before) == 1, 30)
        assert replaced, (hung, before, kit.workers(server.pid), server.errors())
        clients.more()
    assert not kit.alive({hung})
    assert clients.outcomes["timeout"] <= 1, clients.texts  # none, if it had just answered one when it was stopped
    assert clients.outcomes.keys() - {"timeout"} == {"answered"}, clients.texts


FRAIL = """
import os, signal, threading
from pathlib import Path
from imdb_serving.pipeline import imdb_pipeline

def make(engine, bundle):
    try:
        Path("first").touch(exist_ok=False)
    except FileExistsError:  # all but the first end soon, without a request
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
        threading.Event().wait(0.05)
    return imdb_pipeline(engine, bundle)
"""


@pytest.mark.parametrize("mode", load.some(load.MODES, ["flask"]))
def test_readiness_says_which_worker_was_given_up_and_why(mode: str, tmp_path, monkeypatch) -> None:
    (tmp_path / "frail.py").write_text(FRAIL)
    monkeypatch.chdir(tmp_path)
    arguments = ["--engine", "none", "--worker-kind", "process", "--server-threads", "2", "--pipeline", "frail:make"]
    with ServerProcess.of_mode(mode, arguments) as server, connect(server.endpoint, 30) as client:
        assert wait_until(lambda: bool(client.hello().given_up), 60)
        with load.clients_at_work(server.endpoint, 3) as clients:
            clients.more()
        info = client.hello()
        assert (info.server_threads, info.workers_ready) == (2, 1)
        assert info.given_up[0].endswith("the last time it died (SIGKILL) before it had answered a request")
    assert set(clients.outcomes) == {"answered"}, clients.texts


@pytest.mark.parametrize("mode", load.some(load.MODES, []))
def test_a_server_whose_last_worker_is_given_up_ends_and_says_so(mode: str, tmp_path, monkeypatch) -> None:
    (tmp_path / "frail.py").write_text(FRAIL)
    (tmp_path / "first").touch()
    monkeypatch.chdir(tmp_path)
    arguments = ["--engine", "none", "--worker-kind", "process", "--server-threads", "1", "--pipeline", "frail:make"]
    server = ServerProcess.of_mode(mode, arguments)
    with server:
        process = server._process
        assert process is not None
        assert wait_until(lambda: process.poll() is not None, 60)
        assert process.returncode == 2
        errors = server._errors
        assert errors is not None
        errors.seek(0)
        assert "no worker is left, and none can be started" in errors.read()
