"""Units: processes that are replaced when they die, hang or do not start, and what becomes of the requests they had."""

from __future__ import annotations

import gc
import os
import queue
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.errors import Overloaded, RemoteFailure, RequestTimeout, ServerStartError, ServerUnavailable
from imdb_serving.messages import Handler, Reply, Request, ServerInfo
from imdb_serving.server import work_watch
from imdb_serving.server.rpc.service import rpc_server
from imdb_serving.server.server import Server
from imdb_serving.server.workers import restarts
from imdb_serving.server.workers.handover import Handover
from imdb_serving.server.workers.unit import ProcessUnit
from imdb_serving.server.workers.units import Units
from imdb_serving.timing import Timeline

DIED = "two workers died while working on this request"


def sleeper(request: Request, timeline: Timeline) -> Reply:
    """Sleep as many milliseconds as the first word says; 13 is the end of the process."""
    words = request.feed["words"].values
    with timeline.stage("op0"):
        if int(words[0]) == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(int(words[0]) / 1000)
    return Reply({"prediction": np.full((1, 1), os.getpid(), np.float64)}, timeline.stages)


def make_sleeper() -> Handler:
    return sleeper


class Running:
    """A server with worker processes, and its endpoint."""

    def __init__(self, server: Server) -> None:
        self.server, self.endpoint = server, ""
        self.broken: list[ServerStartError] = []
        self._ready: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.server.run(self._ready.put)
        except ServerStartError as error:
            self.broken.append(error)
            self._ready.put("")

    def start(self) -> None:
        self._thread.start()
        self.endpoint = self._ready.get(timeout=60)

    def stop(self) -> None:
        self.server.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def ask(self, milliseconds: int, seconds: float = 10, length: int = 1) -> int:
        """Have a worker sleep; its process id."""
        with connect(self.endpoint, timeout=seconds) as client:
            return int(client.predict({"words": [milliseconds] * length})["prediction"][0])

    def pids(self) -> set[int]:
        return set(self.server.units.pids().values())


@contextmanager
def running(carrier: kit.Carrier, count: int, make: Callable[[], Handler] = make_sleeper) -> Iterator[Running]:
    info = ServerInfo("", "0", "test", "", count, "process", (), (), 16 << 20, os.getpid(), server_processes=count)
    started = Running(rpc_server(carrier.endpoint(), make, count, count, lambda *_: info))
    started.start()
    try:
        yield started
    finally:
        started.stop()


def test_a_late_worker_finishes_and_is_used_again(carrier: kit.Carrier) -> None:
    with running(carrier, 1) as it:
        worker = it.ask(0)
        with pytest.raises(RequestTimeout):
            it.ask(500, seconds=0.1)
        assert (it.ask(0), it.server.units.replaced) == (worker, 0)


def test_a_worker_that_hangs_is_replaced(carrier: kit.Carrier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_watch, "LATE_SECONDS", 0.2)
    with running(carrier, 1) as it:
        worker = it.ask(0)
        with pytest.raises(RequestTimeout):
            it.ask(60_000, seconds=0.2)
        assert it.ask(0, seconds=20) != worker
        assert wait_until(lambda: not kit.alive({worker}))


def test_a_large_request_to_a_hung_worker_keeps_its_deadline(carrier: kit.Carrier) -> None:
    with running(carrier, 1) as it, kit.side_by_side(1) as run:
        worker = it.ask(0)
        os.kill(worker, signal.SIGSTOP)
        assert isinstance(run(it.ask, 0, 0.5, 1 << 20).exception(timeout=20), RequestTimeout)
        assert it.ask(0, seconds=20) != worker


def test_a_request_at_which_two_workers_die_fails_and_they_are_replaced(carrier: kit.Carrier) -> None:
    with running(carrier, 2) as it:
        with pytest.raises(RemoteFailure, match=DIED):
            it.ask(13)
        assert wait_until(lambda: (it.server.dispatcher.asked_again, it.server.units.replaced) == (1, 2))
        assert wait_until(lambda: it.server.units.missing == 0)
        assert it.ask(0)


def test_a_worker_that_dies_while_idle_is_replaced_before_it_is_asked(carrier: kit.Carrier) -> None:
    with running(carrier, 1) as it:
        worker = it.ask(0)
        os.kill(worker, signal.SIGKILL)
        assert it.ask(0, seconds=20) != worker


WORK = (0, 1, 30, 2, 13, 0, 30, 1)


def test_no_answer_is_lost_or_mixed_up_while_workers_come_late_and_die(carrier: kit.Carrier) -> None:
    with running(carrier, 3) as it, kit.side_by_side(8) as run:
        asked = [run(it.ask, WORK[number % 8], (10, 0.005)[number % 5 == 0]) for number in range(40)]
        outcomes = [type(answer.exception(30)) for answer in asked]
        assert set(outcomes) <= {type(None), RemoteFailure, RequestTimeout, Overloaded, ServerUnavailable}
        assert outcomes.count(type(None)) >= 20
        assert wait_until(lambda: it.server.units.missing == 0)
        assert len({answer.result(20) for answer in [run(it.ask, 300) for _ in range(3)]}) == 3


def startable(folder: Path, times: int) -> Handler:
    """Make a handler, so many times; afterwards it fails."""
    for number in range(times):
        try:
            (folder / str(number)).touch(exist_ok=False)
        except FileExistsError:
            continue
        return sleeper
    raise FileNotFoundError("no weights")


def test_a_server_whose_last_worker_cannot_be_replaced_ends_with_the_reason(
    carrier: kit.Carrier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(restarts, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(restarts, "MAX_TRIES", 2)
    with running(carrier, 1, partial(startable, tmp_path, 1)) as it:
        assert it.ask(0)
        with pytest.raises(ServerUnavailable):
            it.ask(13, seconds=30)
        assert wait_until(lambda: bool(it.broken), 30)
    assert "no worker is left" in str(it.broken[0])
    assert caplog.text.count("could not start: FileNotFoundError: no weights") == restarts.MAX_TRIES
    tried = f"tried {restarts.MAX_TRIES} times in a row; the last time it could not be started"
    assert it.server.units.given_up == {0: tried}


def test_a_worker_that_cannot_be_replaced_does_not_take_the_others_down(
    carrier: kit.Carrier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(restarts, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(restarts, "MAX_TRIES", 2)
    with running(carrier, 3, partial(startable, tmp_path, 4)) as it:
        with pytest.raises(RemoteFailure):
            it.ask(13)
        assert wait_until(lambda: "is given up" in caplog.text, 30)
        assert it.server.units.missing == 1
        assert it.ask(0)
        with connect(it.endpoint) as client:
            assert client.hello().given_up[0].startswith("worker ")
        assert not it.broken


def refuse() -> Handler:
    raise FileNotFoundError("no weights")


def test_a_worker_that_cannot_start_says_why(carrier: kit.Carrier) -> None:
    with running(carrier, 2, refuse) as it:
        assert "could not start: FileNotFoundError: no weights" in str(it.broken[0])


def test_a_server_needs_a_worker() -> None:
    with pytest.raises(ServerStartError, match="at least 1 worker, got 0"):
        Units(0, 0)


def test_stopping_leaves_no_process_even_while_one_is_replaced(carrier: kit.Carrier) -> None:
    with running(carrier, 2) as it:
        workers = it.pids()
        with pytest.raises(RemoteFailure):
            it.ask(13)
        workers |= it.pids()
    assert wait_until(lambda: not kit.alive(workers))


def test_a_worker_that_is_begun_while_the_server_closes_keeps_nothing_open() -> None:
    shared = SimpleNamespace(file=-1, descriptor=-1), SimpleNamespace(descriptor=-1), Handover(local=False)
    shared[2].close()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with suppress(OSError):
            ProcessUnit(0, make_sleeper, [], shared, [])  # type: ignore[arg-type]
        gc.collect()
    assert [str(one.message) for one in told] == []


def frail(count: int, folder: Path) -> Handler:
    """Make a handler whose process ends soon by itself, without a request, so many times."""
    number = len(list(folder.iterdir()))
    (folder / str(number)).touch()
    if number < count:
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return sleeper


def test_a_worker_that_keeps_dying_without_a_request_is_given_up_with_the_reason(
    carrier: kit.Carrier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(restarts, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(restarts, "MAX_TRIES", 2)
    with running(carrier, 1, partial(frail, 1000, tmp_path)) as it:
        assert wait_until(lambda: bool(it.broken), 60)
        tried = f"tried {restarts.MAX_TRIES} times in a row"
        reason = f"{tried}; the last time it died (SIGKILL) before it had answered a request"
        assert it.server.units.given_up == {0: reason}
    assert f"worker 0 is given up: {reason}" in caplog.text


def test_requests_that_kill_their_workers_never_have_one_given_up(
    carrier: kit.Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "MAX_TRIES", 2)
    with running(carrier, 1) as it:
        for length in range(1, restarts.MAX_TRIES + 2):  # as many different requests, each of which kills two workers
            with pytest.raises(RemoteFailure, match=DIED):
                it.ask(13, seconds=30, length=length)
        assert wait_until(
            lambda: it.server.units.replaced == 2 * (restarts.MAX_TRIES + 1) and not it.server.units.missing, 30
        )
        assert it.server.units.given_up == {}
        assert it.ask(0, seconds=30)
        assert not it.broken


def test_a_request_that_killed_two_workers_is_not_given_to_a_third_for_a_while(
    carrier: kit.Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(carrier, 2) as it:
        with pytest.raises(RemoteFailure, match=DIED):
            it.ask(13)
        for _ in range(20):
            with pytest.raises(RemoteFailure, match="lately; it is not given to another for"):
                it.ask(13)
        assert wait_until(lambda: it.server.units.replaced == 2)  # its client may be told before
        words = it.server.dispatcher.quarantine.in_words()
        assert words[0].endswith(": 2")
        assert words[1].endswith(": 1")
        monkeypatch.setattr(restarts, "monotonic", lambda: time.monotonic() + restarts.QUARANTINE_SECONDS)
        with pytest.raises(RemoteFailure, match=DIED + ";"):
            it.ask(13, seconds=30)
        assert wait_until(lambda: it.server.units.replaced == 4)


def test_the_last_worker_is_kept_from_suspects_while_a_request_is_refused(carrier: kit.Carrier) -> None:
    with running(carrier, 2) as it, kit.side_by_side(1) as run:
        it.server.dispatcher.quarantine.add(b"another", restarts.KILLS)
        killed = run(it.ask, 13)
        assert wait_until(lambda: it.server.units.replaced == 1)
        while not killed.done():
            it.ask(0, seconds=5)  # there is always one for it
        assert isinstance(killed.exception(30), RemoteFailure)


def test_a_worker_that_answers_after_all_is_forgiven(
    carrier: kit.Carrier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(restarts, "MAX_TRIES", 2)
    with running(carrier, 1, partial(frail, restarts.MAX_TRIES - 1, tmp_path)) as it:
        server = it.server
        assert wait_until(lambda: server.units.replaced == restarts.MAX_TRIES - 1 and server.units.missing == 0, 60)
        worker = it.ask(0, seconds=30)
        os.kill(worker, signal.SIGKILL)
        assert it.ask(0, seconds=30) != worker
        assert server.units._tries[0].failed == 0


def test_who_has_an_answer_finds_it_counted(carrier: kit.Carrier) -> None:
    with running(carrier, 1) as it, connect(it.endpoint, timeout=30) as client:
        for number in range(1, 1001):
            client.predict({"words": [0]})
            assert it.server.outcomes()["answered"] == number


def test_what_the_machine_lacks_for_the_moment_is_no_fault_of_the_worker(
    carrier: kit.Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(restarts, "MAX_TRIES", 2)
    monkeypatch.setattr(restarts, "MAX_PAUSE_SECONDS", 0.1)
    refusals = [OSError(24, "Too many open files")] * 2 * restarts.MAX_TRIES
    with running(carrier, 1) as it:
        units = it.server.units
        make = units._make

        def make_later(number: int) -> Any:
            if refusals:
                raise refusals.pop()
            return make(number)

        monkeypatch.setattr(units, "_make", make_later)
        os.kill(it.ask(0), signal.SIGKILL)
        assert it.ask(0, seconds=60)
        assert (refusals, units.given_up) == ([], {})


def test_workers_go_on_when_the_fork_server_is_killed(carrier: kit.Carrier) -> None:
    with running(carrier, 2) as it:
        workers = it.pids()
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
        time.sleep(1)
        assert it.pids() == workers
        assert it.ask(0) in workers
        os.kill(min(workers), signal.SIGKILL)
        assert wait_until(lambda: len(it.pids() - workers) == 1, 30)
        assert it.ask(0)
