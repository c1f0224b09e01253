"""In how many processes worker threads are, where that is left to the server."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from imdb_serving.cli import server_processes
from imdb_serving.cli.serve_options import ServeOptions
from imdb_serving.cli.server_processes import decided, serving_us
from imdb_serving.clients.connect import connect
from imdb_serving.engines import tuning
from imdb_serving.engines.probes import Probes
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.model.bundle import open_bundle
from imdb_serving.server.sizing import Cost, best_processes
from imdb_serving.server_process import ServerProcess

LOCK_ALWAYS, LOCK_HALF, LOCK_SELDOM = Cost(60, 60), Cost(200, 100), Cost(5060, 60)


@pytest.mark.parametrize(
    ("workers", "cores", "cost", "best"),
    [
        (1, 64, LOCK_ALWAYS, 1),
        (4, 1, LOCK_ALWAYS, 1),
        (4, 0.5, LOCK_ALWAYS, 1),
        (4, 2, LOCK_ALWAYS, 2),
        (4, 64, LOCK_ALWAYS, 4),
        (24, 9, LOCK_ALWAYS, 9),
        (8, 64, LOCK_HALF, 8),
        (4, 48, LOCK_SELDOM, 1),
        (24, 48, LOCK_SELDOM, 6),
        (4, 2.5, LOCK_ALWAYS, 2),
        (4, 64, Cost(0, 0), 4),
        (4, 3, None, 3),
    ],
)
def test_as_many_processes_as_requests_need_of_the_interpreter(workers, cores, cost, best) -> None:
    assert best_processes(workers, cores, cost) == best


def best(monkeypatch: pytest.MonkeyPatch, options: ServeOptions, mode: str, bundle: Path | None = None) -> int:
    """How many processes are chosen on a machine of 16 cores."""
    monkeypatch.setattr(server_processes, "usable_cores", lambda: 16.0)
    return decided(options, mode, open_bundle(bundle) if bundle else None).server_processes


NONE, SLEEPS = EngineSpec("none"), EngineSpec("simulated", service_time_ms=50)


@pytest.mark.parametrize(
    ("options", "mode", "count"),
    [
        (ServeOptions(None, NONE), "socket", 4),
        (ServeOptions(None, NONE), "flask", 4),
        (ServeOptions(None, NONE, max_message_bytes=1024), "socket", 4),
        (ServeOptions(None, NONE, max_message_bytes=1024), "flask", 4),
        (ServeOptions(None, SLEEPS), "flask", 1),
        (ServeOptions(None, NONE), "rpc", 1),
        (ServeOptions(None, NONE, 1), "socket", 1),
        (ServeOptions(None, NONE, processes=3), "socket", 3),
        (ServeOptions(None, NONE, processes=2), "rpc", 2),
        (ServeOptions(None, NONE, worker_kind="process"), "socket", 4),
        (ServeOptions(None, NONE, pipeline="mine:make"), "socket", 1),
    ],
)
def test_a_choice_that_was_left_open_is_made(monkeypatch, options: ServeOptions, mode: str, count: int) -> None:
    assert best(monkeypatch, options, mode) == count


def test_what_was_tuned_decides(monkeypatch: pytest.MonkeyPatch, bundle: Path, caplog) -> None:
    options = ServeOptions(bundle, EngineSpec("onnxruntime"), 8)
    found = tuning.Result("", {"": 100}, "now", Probes(True, 0.0, None, locked_us=10.0))
    monkeypatch.setattr(tuning, "known", lambda *_: found)
    assert best(monkeypatch, options, "socket", bundle) < 8
    found = tuning.Result("", {"": 2000}, "now", Probes(True, 0.0, None, locked_us=400.0))
    assert best(monkeypatch, options, "socket", bundle) == 8
    found = tuning.Result("", {"": 1}, "now")
    assert best(monkeypatch, options, "socket", bundle) == 1
    monkeypatch.setattr(tuning, "known", lambda *_: None)
    with caplog.at_level(logging.INFO):
        assert best(monkeypatch, options, "socket", bundle) == 8
    assert "which imdb-serving tune measures" in caplog.text


SCRIPT = """
from imdb_serving.cli.serve import serve_rpc
from imdb_serving.cli.serve_options import ServeOptions
from imdb_serving.engines.registry import EngineSpec

serve_rpc(ServeOptions(None, EngineSpec("none"), endpoint="socket://127.0.0.1:0"))
"""


def test_a_script_of_ones_own_serves_in_one_process(tmp_path: Path) -> None:
    """It has no `if __name__ == "__main__"`, and so no worker process can import it."""
    script = tmp_path / "served.py"
    script.write_text(SCRIPT, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert "processes=1 " in server.stdout.readline()
        finally:
            server.terminate()


def test_on_one_core_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(server_processes, "usable_cores", lambda: 1.0)
    monkeypatch.setattr(server_processes, "serving_us", None)
    with caplog.at_level(logging.INFO):
        assert decided(ServeOptions(None, NONE), "socket", None).server_processes == 1
    assert "fewer than two cores" in caplog.text


@pytest.mark.parametrize("mode", ["socket", "flask"])
def test_what_serving_takes_is_measured(mode: str) -> None:
    assert 1 < serving_us(mode) < 100_000


def test_a_server_tells_what_it_chose() -> None:
    arguments = ["--engine", "none", "--server-threads", "2", "--processes", "auto"]
    with ServerProcess(arguments, command="flask") as server, connect(server.endpoint) as client:
        assert client.hello().server_processes in {1, 2}
