"""Workers that take requests by themselves: none waits while one is free, brief ones wake nobody, deadlines hold."""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from waiting import wait_until

from imdb_serving.errors import ServingError
from imdb_serving.messages import Handler, Reply, Request, ServerInfo
from imdb_serving.protocol import wire
from imdb_serving.protocol.requests import make_request
from imdb_serving.server import server as supervising
from imdb_serving.server import work_watch
from imdb_serving.server.rpc import shared_listener
from imdb_serving.server.rpc.memory_server import MemoryServer
from imdb_serving.server.workers.handover import BUSY, Handover
from imdb_serving.server.workers.ready_set import SelectorReadySet
from imdb_serving.server.workers.scoreboard import ASLEEP, OBSERVE, Row
from imdb_serving.timing import Timeline


def answered(answer: Future[bytes], seconds: float = 20) -> Any:
    """The value in an answer, or the failure's code."""
    _, reply = wire.decode_answer(*wire.open_piece(answer.result(seconds)))
    return reply.code if isinstance(reply, ServingError) else float(reply.outputs["prediction"][0, 0])  # type: ignore[union-attr]


class Running:
    """A server in memory, and how it is asked."""

    def __init__(self, server: MemoryServer) -> None:
        self.server, self._number = server, 0

    def ask(self, word: int = 0, seconds: float = 10, client: str = "") -> Future[bytes]:
        self._number += 1
        request = make_request([{"words": [word]}], ["prediction"])
        return self.server.ask(wire.encode_request(request, self._number, seconds * 1000), client)


@contextmanager
def running(make_handler: Callable[[], Handler], workers: int, **options: Any) -> Iterator[Running]:
    info = ServerInfo("", "0", "test", "", workers, "thread", (), (), 1 << 24, os.getpid())
    server = MemoryServer(make_handler, workers, lambda *_: info, **options)
    ready = threading.Event()
    runner = threading.Thread(target=server.run, args=(lambda _: ready.set(),))
    runner.start()
    try:
        assert ready.wait(20)
        yield Running(server)
    finally:
        server.stop()
        runner.join(30)
    assert not runner.is_alive()


class Gate:
    """A handler that keeps those whose word is 1 waiting until it opens; it answers the thread's number."""

    def __init__(self) -> None:
        self.opens = threading.Event()
        self.at_gate = 0

    def __call__(self, request: Request, timeline: Timeline) -> Reply:
        with timeline.stage("op0"):
            if request.feed["words"].values[0] == 1:
                self.at_gate += 1
                self.opens.wait(60)
        worker = int(threading.current_thread().name.removeprefix("server-thread-"))
        return Reply({"prediction": np.full((1, 2), worker, np.float32)}, timeline.stages)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opens.set()


def test_every_request_is_answered_once(gate: Gate) -> None:
    with running(lambda: gate, 3) as it:
        answers = [it.ask(client=str(number % 5)) for number in range(2000)]
        assert all(answered(answer) in {0.0, 1.0, 2.0, "overloaded"} for answer in answers)
        assert wait_until(lambda: sum(it.server.outcomes().values()) == 2000)


@pytest.mark.parametrize("epoll", [True, False])
def test_one_that_is_stuck_holds_up_no_other(gate: Gate, epoll: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not epoll:
        monkeypatch.setattr(selectors, "DefaultSelector", selectors.PollSelector)
        monkeypatch.setattr(supervising, "make_ready_set", SelectorReadySet)
    with running(lambda: gate, 2) as it:
        for _ in range(50):  # requests are known to be brief by then
            assert answered(it.ask()) in {0.0, 1.0}
        stuck = it.ask(1)
        assert wait_until(lambda: gate.at_gate == 1)
        for _ in range(20):
            assert answered(it.ask()) in {0.0, 1.0}
        assert not stuck.done()
        gate.opens.set()
        assert answered(stuck) in {0.0, 1.0}


def test_deadlines_hold_and_hello_is_answered_while_every_worker_is_stuck(gate: Gate) -> None:
    with running(lambda: gate, 2) as it:
        stuck = [it.ask(1) for _ in range(2)]
        assert wait_until(lambda: gate.at_gate == 2)
        assert answered(it.ask(seconds=0.2)) == "timeout"
        _, info = wire.decode_answer(*wire.open_piece(it.server.ask(wire.encode_hello(9)).result(20)))
        assert isinstance(info, ServerInfo)
        assert not any(each.done() for each in stuck)
        gate.opens.set()


def test_one_at_work_past_its_deadline_is_told_and_counts_once(gate: Gate) -> None:
    with running(lambda: gate, 2) as it:
        assert answered(it.ask(1, seconds=0.2)) == "timeout"
        gate.opens.set()
        assert answered(it.ask()) in {0.0, 1.0}
        assert wait_until(lambda: it.server.outcomes() == {"answered": 1, "timeout": 1})


def test_a_worker_that_hangs_is_replaced(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_watch, "LATE_SECONDS", 0.1)
    with running(lambda: gate, 1) as it:
        assert answered(it.ask(1, seconds=0.1)) == "timeout"
        assert answered(it.ask()) == 0.0
        assert it.server.units.replaced == 1
        gate.opens.set()


def test_the_queue_is_bounded(gate: Gate) -> None:
    with running(lambda: gate, 1, max_queue=3) as it:
        waiting = [it.ask(1, client=f"client-{number}") for number in range(4)]  # one alone may have half of it
        assert wait_until(lambda: len(it.server.queue) == 3)
        assert answered(it.ask(client="another")) == "overloaded"
        gate.opens.set()
        assert [answered(each) for each in waiting] == [0.0] * 4


def test_where_none_may_wait_an_idle_worker_takes_a_request_all_the_same(gate: Gate) -> None:
    with running(lambda: gate, 1, max_queue=0) as it:
        for _ in range(50):
            assert answered(it.ask()) == 0.0
        stuck = it.ask(1)
        assert wait_until(lambda: gate.at_gate == 1)
        assert answered(it.ask()) == "overloaded"
        gate.opens.set()
        assert answered(stuck) == 0.0


def test_draining_answers_what_had_arrived_and_refuses_the_rest(gate: Gate) -> None:
    with running(lambda: gate, 1) as it:
        before = [it.ask(1), it.ask()]
        assert wait_until(lambda: gate.at_gate == 1 and len(it.server.queue) == 1)
        it.server.stop()
        late: list[Future[bytes]] = []

        def is_refused() -> bool:
            late.append(it.ask(client="late"))  # the first ones may have come before the server saw that it shall stop
            return late[-1].done() and answered(late[-1]) == "unavailable"

        assert wait_until(is_refused)
        gate.opens.set()
        assert [answered(each) for each in before] == [0.0, 0.0]


def test_what_draining_does_not_come_to_in_its_time_is_refused(gate: Gate) -> None:
    with running(lambda: gate, 1, drain_timeout=0.2) as it:
        before = [it.ask(1), it.ask()]
        assert wait_until(lambda: gate.at_gate == 1 and len(it.server.queue) == 1)
        it.server.stop()
        assert [answered(each) for each in before] == ["unavailable", "unavailable"]
        gate.opens.set()


def test_brief_requests_are_answered_by_one_thread_alone() -> None:
    observed: list[str] = []

    def brief(request: Request, timeline: Timeline) -> Reply:
        with timeline.stage("op0"):
            observed.append(threading.current_thread().name)
        return Reply({"prediction": np.zeros((1, 2), np.float32)}, timeline.stages)

    with running(lambda: brief, 3) as it:
        for _ in range(20):
            for answer in [it.ask() for _ in range(20)]:
                answered(answer)
    assert observed[-200:].count("server-thread-0") > 150  # another may take one now and then, when it looks up


def test_requests_that_leave_the_interpreter_to_others_are_shared() -> None:
    observed: set[str] = set()

    def long(request: Request, timeline: Timeline) -> Reply:
        with timeline.stage("op0"):
            observed.add(threading.current_thread().name)
            time.sleep(0.005)
        return Reply({"prediction": np.zeros((1, 2), np.float32)}, timeline.stages)

    with running(lambda: long, 3) as it:
        for answer in [it.ask() for _ in range(60)]:
            answered(answer)
    assert observed == {"server-thread-0", "server-thread-1", "server-thread-2"}


def test_the_supervisor_stays_awake_while_requests_come(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """It found no worker at work when it looked, which is so with brief requests, and was woken for each."""
    woken: list[int] = []
    report = Handover.report

    def reported(self: Handover, kind: int, *others: Any) -> None:
        woken.append(kind)
        report(self, kind, *others)

    monkeypatch.setattr(Handover, "report", reported)
    monkeypatch.setattr(Row, "is_busy", False)
    with running(lambda: gate, 1) as it:
        assert wait_until(lambda: it.server.board.common[ASLEEP])
        for _ in range(500):
            answered(it.ask())
            time.sleep(0.001)
    assert 0 < woken.count(BUSY) < 20


def test_answers_of_brief_requests_leave_together_while_more_wait(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    glance = shared_listener.SharedListener.glance

    def glanced(self: shared_listener.SharedListener) -> None:
        held.append(len(self._outbox))
        glance(self)

    monkeypatch.setattr(shared_listener.SharedListener, "glance", glanced)
    with running(lambda: gate, 1) as it:
        for _ in range(50):
            answered(it.ask())
        stuck = it.ask(1)
        assert wait_until(lambda: gate.at_gate == 1)
        waiting = [it.ask(client=f"client-{number}") for number in range(10)]
        assert wait_until(lambda: len(it.server.queue) == 10)
        gate.opens.set()
        assert [answered(each) for each in [stuck, *waiting]] == [0.0] * 11
    assert 1 < max(held) <= shared_listener.MAX_HELD


def test_what_is_no_message_is_told(gate: Gate) -> None:
    with running(lambda: gate, 1) as it:
        _, error = wire.decode_answer(*wire.open_piece(it.server.ask(b"nonsense").result(20)))
        assert "no message" in str(error)


def test_metrics_are_told_of_the_first_request_though_no_look_came_before_it() -> None:
    """Workers may be ready before the supervisor has looked once."""
    info = ServerInfo("", "0", "test", "", 1, "thread", (), (), 1 << 24, os.getpid())
    server = MemoryServer(Gate, 1, lambda *_: info)
    start = server._starter.run
    server._starter.run = lambda _keep, stopping: start(lambda _: time.sleep(0.001), stopping)  # type: ignore[method-assign]
    seen: list[int] = []

    @contextmanager
    def metrics() -> Iterator[str]:
        server.observed = deque()
        yield "http://here"

    def on_ready(_endpoint: str) -> None:
        seen.append(int(server.board.common[OBSERVE]))
        server.stop()

    server.run(on_ready, metrics())
    assert seen == [supervising.OBSERVED_A_TURN]
