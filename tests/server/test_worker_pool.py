"""The pool: a worker for each asker, and deadlines that hold whatever a worker does."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.config import WorkerKind
from imdb_serving.errors import RemoteFailure, RequestTimeout, ServerStartError, ServerUnavailable, ServingError
from imdb_serving.messages import Handler, Reply, Request, Tensor
from imdb_serving.protocol import wire
from imdb_serving.protocol.headers import Predict
from imdb_serving.server import channel, supervisor
from imdb_serving.server import worker_pool as pools
from imdb_serving.server.channel import Frames
from imdb_serving.server.rpc_requests import Parsed, answer_maker, make_answer
from imdb_serving.server.supervisor import WorkersDied
from imdb_serving.server.worker import ProcessWorker
from imdb_serving.server.worker_pool import WorkerPool
from imdb_serving.timing import Timeline


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


@contextmanager
def running(
    count: int, kind: WorkerKind = "process", make: Callable[[], Handler] = make_sleeper
) -> Iterator[WorkerPool]:
    pool = WorkerPool(partial(answer_maker(kind), make), count, kind)
    try:
        pool.start(30)
        yield pool
    finally:
        pool.stop()


def message(pool: WorkerPool, frames: Frames) -> Any:
    """What a worker of the pool takes."""
    if pool.kind == "process":
        return frames
    header, tensors, one_piece = wire.open_frames(frames)
    question = wire.read_question(header)
    assert isinstance(question, Predict)
    return Parsed(question, tensors, one_piece)


def ask(pool: WorkerPool, milliseconds: int, seconds: float = 10, length: int = 1) -> int:
    """Have a worker sleep; its process id."""
    words = np.full(length, milliseconds)
    frames = wire.encode_request(Request({"words": Tensor(words, (length,))}, ("prediction",), 1), 0, 1000)
    opened = wire.open_frames(pool.ask(time.perf_counter_ns(), message(pool, frames), time.monotonic() + seconds))
    _, reply = wire.decode_answer(opened.header, opened.tensors)
    if isinstance(reply, ServingError):
        raise reply
    assert isinstance(reply, wire.Answered)
    return int(reply.outputs["prediction"][0, 0])


def whole(pool: WorkerPool) -> bool:
    return pool.missing() == 0


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_askers_side_by_side_have_a_worker_each(kind: WorkerKind) -> None:
    with running(3, kind) as pool, kit.side_by_side(3) as run:
        answers = {answer.result(20) for answer in [run(ask, pool, 300) for _ in range(3)]}
        assert len(answers) == (3 if kind == "process" else 1)


def test_an_asker_waits_for_the_first_worker_that_is_free() -> None:
    with running(2, "thread") as pool, kit.side_by_side(3) as run:
        slow = run(ask, pool, 1500)
        run(ask, pool, 200)
        time.sleep(0.1)
        ask(pool, 0)
        assert not slow.done()


def test_a_deadline_that_passes_in_the_queue_costs_no_worker() -> None:
    with running(1) as pool, kit.side_by_side(1) as run:
        slow = run(ask, pool, 600)
        time.sleep(0.2)
        with pytest.raises(RequestTimeout, match="waited for a worker"):
            ask(pool, 0, seconds=0.1)
        worker = slow.result(10)
        with pytest.raises(RequestTimeout, match="waited for a worker"):
            ask(pool, 0, seconds=-1)
        assert (ask(pool, 0), pool.missing()) == (worker, 0)


def test_a_late_worker_finishes_and_is_used_again() -> None:
    with running(1) as pool:
        worker = ask(pool, 0)
        with pytest.raises(RequestTimeout, match="at the request"):
            ask(pool, 500, seconds=0.1)
        assert (ask(pool, 0), pool.missing()) == (worker, 0)


def test_a_worker_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "LATE_SECONDS", 0.2)
    with running(1) as pool:
        worker = ask(pool, 0)
        os.kill(worker, signal.SIGSTOP)
        with pytest.raises(RequestTimeout, match="at the request"):
            ask(pool, 0, seconds=0.2)
        assert ask(pool, 0, seconds=20) != worker
        assert not kit.alive({worker})


def test_a_request_too_large_for_the_pipe_of_a_hung_worker_keeps_its_deadline() -> None:
    with running(1) as pool, kit.side_by_side(1) as run:
        worker = ask(pool, 0)
        os.kill(worker, signal.SIGSTOP)
        error = run(ask, pool, 0, 0.5, 1 << 20).exception(timeout=10)
        assert isinstance(error, RequestTimeout)
        assert "while a worker was at the request" in str(error)
        assert ask(pool, 0, seconds=20) != worker


def test_a_request_at_which_two_workers_die_fails_and_they_are_replaced() -> None:
    with running(2) as pool:
        with pytest.raises(RemoteFailure, match="two workers died while working on this request"):
            ask(pool, 13)
        assert pool.asked_again == 1
        assert pool.replaced == 2
        assert wait_until(partial(whole, pool))
        assert ask(pool, 0)


def test_a_worker_that_dies_while_idle_is_replaced_before_it_is_asked() -> None:
    with running(1) as pool:
        worker = ask(pool, 0)
        os.kill(worker, signal.SIGKILL)
        assert wait_until(
            lambda: [worker.number for worker in pool._idle if getattr(worker, "pid", 0) != worker] == [0], 20
        )
        assert ask(pool, 0, seconds=20) != worker


WORK = (0, 1, 30, 2, 13, 0, 30, 1)


def test_no_answer_is_lost_or_mixed_up_while_workers_come_late_and_die() -> None:
    with running(3) as pool, kit.side_by_side(8) as run:
        asked = [run(ask, pool, WORK[number % 8], (10, 0.005)[number % 5 == 0]) for number in range(40)]
        outcomes = [type(answer.exception(30)) for answer in asked]
        assert set(outcomes) <= {type(None), WorkersDied, RequestTimeout}
        assert outcomes.count(type(None)) >= 20
        assert wait_until(partial(whole, pool))
        assert len({answer.result(20) for answer in [run(ask, pool, 300) for _ in range(3)]}) == 3


def startable(folder: Path, times: int) -> Handler:
    """Make a handler, so many times; afterwards it fails."""
    for number in range(times):
        try:
            (folder / str(number)).touch(exist_ok=False)
        except FileExistsError:
            continue
        return sleeper
    raise FileNotFoundError("no weights")


def test_when_the_last_worker_cannot_be_replaced_the_pool_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS", 0.001)
    broken: list[ServerStartError] = []
    with running(1, "process", partial(startable, tmp_path, 1)) as pool:
        pool.on_broken = broken.append
        assert ask(pool, 0)
        with pytest.raises(ServerUnavailable, match="no worker is left"):
            ask(pool, 13, seconds=30)
        assert wait_until(lambda: bool(broken), 30)
        with pytest.raises(ServerUnavailable, match="no worker is left"):
            ask(pool, 0, seconds=20)
    assert "no worker is left" in str(broken[0])
    assert caplog.text.count("could not start: FileNotFoundError: no weights") == supervisor.MAX_TRIES
    assert pool.given_up == {0: f"tried {supervisor.MAX_TRIES} times in a row; the last time it could not be started"}


def test_a_worker_that_cannot_be_replaced_does_not_take_the_others_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS", 0.001)
    with running(3, "process", partial(startable, tmp_path, 4)) as pool:
        pool.on_broken = lambda error: pytest.fail(str(error))
        with pytest.raises(RemoteFailure):
            ask(pool, 13)
        assert wait_until(lambda: "is given up" in caplog.text, 30)
        assert pool.missing() == 1
        assert ask(pool, 0) == ask(pool, 0)


def test_a_worker_that_cannot_start_says_why() -> None:
    def refuse() -> Handler:
        raise FileNotFoundError("no weights")

    with (
        pytest.raises(ServerStartError, match="could not start: FileNotFoundError: no weights"),
        running(2, "thread", refuse),
    ):
        pytest.fail("it cannot be ready")


def test_a_pool_needs_a_worker() -> None:
    with pytest.raises(ServerStartError, match="at least 1 worker, got 0"):
        WorkerPool(partial(make_answer, make_sleeper), 0, "thread")


def test_stopping_leaves_no_process_even_while_one_is_replaced() -> None:
    with running(2) as pool:
        workers = {worker.pid for worker in pool._workers.values() if isinstance(worker, ProcessWorker)}
        with pytest.raises(RemoteFailure):
            ask(pool, 13)
    assert wait_until(lambda: not kit.alive(workers))


def frail(count: int, folder: Path) -> Handler:
    """Make a handler whose process ends soon by itself, without a request, so many times."""
    number = len(list(folder.iterdir()))
    (folder / str(number)).touch()
    if number < count:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return sleeper


def test_a_worker_that_keeps_dying_without_a_request_is_given_up_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS", 0.001)
    broken: list[ServerStartError] = []
    with running(1, "process", partial(frail, 1000, tmp_path)) as pool:
        pool.on_broken = broken.append
        assert wait_until(lambda: bool(broken), 60)
        tried = f"tried {supervisor.MAX_TRIES} times in a row"
        reason = f"{tried}; the last time it died (SIGKILL) before it had answered a request"
        assert pool.given_up == {0: reason}
        with pytest.raises(ServerUnavailable, match="no worker is left"):
            ask(pool, 0)
    assert f"worker 0 is given up: {reason}" in caplog.text


def test_requests_that_kill_their_workers_never_have_one_given_up() -> None:
    with running(1) as pool:
        pool.on_broken = lambda error: pytest.fail(str(error))
        for length in range(1, supervisor.MAX_TRIES + 2):  # as many different requests, each of which kills two workers
            with pytest.raises(WorkersDied, match="two workers died while working on this request"):
                ask(pool, 13, seconds=30, length=length)
        assert (pool.replaced, pool.given_up) == (2 * (supervisor.MAX_TRIES + 1), {})
        assert ask(pool, 0, seconds=30)


def test_a_request_that_killed_two_workers_is_not_given_to_a_third_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(2) as pool:
        with pytest.raises(WorkersDied):
            ask(pool, 13)
        for _ in range(20):
            with pytest.raises(WorkersDied, match="lately; it is not given to another for"):
                ask(pool, 13)
        assert pool.replaced == 2
        assert pool.quarantine.in_words()[0].endswith(": 2")
        assert pool.quarantine.in_words()[1].endswith(": 1")
        monkeypatch.setattr(supervisor, "monotonic", lambda: time.monotonic() + supervisor.QUARANTINE_SECONDS)
        with pytest.raises(WorkersDied, match="two workers died while working on this request;"):
            ask(pool, 13, seconds=30)
        assert pool.replaced == 4


def test_a_request_that_hangs_two_workers_is_not_given_to_a_third_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "LATE_SECONDS", 0.1)
    with running(2) as pool:
        for hung in (1, 2):
            with pytest.raises(RequestTimeout, match="at the request"):
                ask(pool, 60_000, seconds=0.1)
            assert wait_until(lambda: pool.replaced == hung, 30)  # noqa: B023 - looked at in this turn only
        with pytest.raises(WorkersDied, match="lately"):
            ask(pool, 60_000, seconds=0.1)
        assert pool.given_up == {}


def test_the_last_worker_is_kept_from_suspects_while_a_request_is_refused() -> None:
    with running(2) as pool, kit.side_by_side(1) as run:
        pool.quarantine.add(b"another", supervisor.KILLS)
        killed = run(ask, pool, 13)
        assert wait_until(lambda: pool.replaced == 1)
        while not killed.done():
            ask(pool, 0, seconds=0.2)  # there is always one for it, at once
        assert isinstance(killed.exception(30), WorkersDied)


def test_a_message_of_more_parts_than_one_call_takes_arrives() -> None:
    """IOV_MAX is 1,024 on Linux; a message of more frames used to be taken for the worker's death."""
    with running(1) as pool:
        worker = ask(pool, 0)
        frames = [
            *wire.encode_request(Request({"words": Tensor(np.zeros(1), (1,))}, ("p",), 1), 0, 1000),
            *[b"x"] * 3000,
        ]
        opened = wire.open_frames(pool.ask(time.perf_counter_ns(), frames, time.monotonic() + 10))
        assert "at most 64 feeds" in str(wire.decode_answer(opened.header, opened.tensors)[1])
        assert (ask(pool, 0), pool.replaced) == (worker, 0)


@pytest.mark.parametrize("number", [errno.EMSGSIZE, errno.EINVAL])
def test_an_error_of_the_call_is_not_taken_for_the_workers_death(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    with running(1) as pool:
        pid = ask(pool, 0)
        worker = pool._workers[0]
        assert isinstance(worker, ProcessWorker)
        with monkeypatch.context() as patch:
            patch.setattr(worker._channel, "connection", Refusing(number))
            with pytest.raises(RemoteFailure, match="its log says why"):
                ask(pool, 0)
        assert (ask(pool, 0), pool.replaced) == (pid, 0)


class Refusing:
    """A socket whose calls fail."""

    def __init__(self, number: int) -> None:
        self.number = number

    def sendmsg(self, parts: object) -> int:
        raise OSError(self.number, "refused")


def test_a_worker_that_answers_after_all_is_forgiven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS", 0.001)
    with running(1, "process", partial(frail, supervisor.MAX_TRIES - 1, tmp_path)) as pool:
        assert wait_until(lambda: pool.replaced == supervisor.MAX_TRIES - 1 and whole(pool), 60)
        worker = ask(pool, 0, seconds=30)
        os.kill(worker, signal.SIGKILL)
        assert ask(pool, 0, seconds=30) != worker
        assert pool._tries[0].failed == 0


def test_what_the_machine_lacks_for_the_moment_is_no_fault_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(supervisor, "MAX_PAUSE_SECONDS", 0.1)
    refusals = [OSError(24, "Too many open files")] * 2 * supervisor.MAX_TRIES
    with running(1) as pool:
        make = pool._make

        def make_later(number: int) -> Any:
            if refusals:
                raise refusals.pop()
            return make(number)

        monkeypatch.setattr(pool, "_make", make_later)
        os.kill(ask(pool, 0), signal.SIGKILL)
        assert ask(pool, 0, seconds=60)
        assert (refusals, pool.given_up) == ([], {})


def make_half_answerer() -> Handler:
    """Make a handler whose process hangs in the middle of giving its answer."""

    def send_half(self: channel.Channel, number: int, frames: Frames, deadline: float | None = None) -> None:
        whole = b"".join(bytes(part) for part in channel.pack(number, frames))
        self.connection.setblocking(True)
        self.connection.sendall(whole[: len(whole) // 2])
        time.sleep(600)

    def answer(request: Request, timeline: Timeline) -> Reply:
        if request.feed["words"].values[0] == 1:
            channel.Channel.send = send_half  # type: ignore[method-assign]
        with timeline.stage("op0"):
            return Reply({"prediction": np.full((1 << 18, 1), os.getpid(), np.float64)}, timeline.stages)

    return answer


def test_a_worker_that_hangs_in_the_middle_of_a_large_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "LATE_SECONDS", 0.2)
    with running(1, make=make_half_answerer) as pool:
        worker = ask(pool, 0)
        with pytest.raises(RequestTimeout, match="at the request"):
            ask(pool, 1, seconds=1)
        assert ask(pool, 0, seconds=30) != worker
        assert not kit.alive({worker})


def test_workers_go_on_when_the_fork_server_is_killed() -> None:
    with running(2) as pool:
        workers = {ask(pool, 0) for _ in range(2)} | set(pool.pids().values())
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
        time.sleep(1)
        assert set(pool.pids().values()) == workers
        assert ask(pool, 0) in workers
        os.kill(min(workers), signal.SIGKILL)
        assert wait_until(lambda: len(set(pool.pids().values()) - workers) == 1, 30)
        assert ask(pool, 0)
