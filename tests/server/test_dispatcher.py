"""Requests that the supervisor passes on: one whose worker dies is given to another, once, whoever sent it."""

from __future__ import annotations

import errno
from time import monotonic
from typing import Any

import pytest

from imdb_serving.errors import RequestTimeout, ServingError
from imdb_serving.protocol import wire
from imdb_serving.protocol.requests import make_request
from imdb_serving.server.dispatcher import Dispatcher
from imdb_serving.server.request_queue import RequestQueue, Task
from imdb_serving.server.rpc.requests import RpcCarrier
from imdb_serving.server.workers.handover import RESULT, Passed, Report
from imdb_serving.server.workers.live import LiveUnits


class Everybody:
    """The listener, the hand-over and the units of a dispatcher, which note what it has them do."""

    workers = 2

    local = False

    def __init__(self) -> None:
        self.passed: list[Passed] = []
        self.refusals: list[OSError] = []  # what passing on fails with, the last one first
        self.told: list[tuple[int, str]] = []

    def ready_workers(self) -> int:
        return self.workers

    def pass_on(self, passed: Passed) -> bool:
        if self.refusals:
            raise self.refusals.pop()
        self.passed.append(passed)
        return True

    def client(self, task: Task) -> str:
        return str(task.route)

    def owner(self, task: Task) -> Any:
        return task.route

    def answer(self, task: Task, outcome: Any) -> None:
        self.told.append((task.request_id, "answered"))

    def fail(self, task: Task, error: ServingError) -> None:
        self.told.append((task.request_id, error.code))


@pytest.fixture
def everybody() -> Everybody:
    return Everybody()


@pytest.fixture
def dispatcher(everybody: Any) -> Dispatcher:
    requests = RequestQueue(lambda task: task.route, lambda: 2)
    return Dispatcher(everybody, everybody, everybody, LiveUnits(), requests, RpcCarrier(None, 1 << 20))


def task(number: int, client: str = "client") -> Task:
    request = make_request([{"words": [number]}], ["prediction"])
    message = wire.encode_request(request, number, 9000.0)
    return Task(client, number, 0, monotonic() + 60, message, 100)


def last(dispatcher: Dispatcher, everybody: Everybody) -> int:
    """Pass on what waits; the number of the last request passed."""
    dispatcher.pass_on()
    return everybody.passed[-1].number


def test_a_request_is_asked_again_once(dispatcher: Dispatcher, everybody: Everybody) -> None:
    dispatcher.submit(task(1))
    dispatcher.died_at(last(dispatcher, everybody))
    assert (everybody.told, dispatcher.asked_again) == ([], 1)
    dispatcher.died_at(last(dispatcher, everybody))
    assert (everybody.told, dispatcher.asked_again) == ([(1, "internal")], 1)
    with pytest.raises(ServingError, match="two workers died while working on this request lately"):
        dispatcher.submit(task(1, "another"))


def test_so_is_that_of_a_client_whose_requests_killed_workers(dispatcher: Dispatcher, everybody: Everybody) -> None:
    """It was told that two workers had died when one had."""
    dispatcher.queue.distrust("client")
    dispatcher.submit(task(2))
    dispatcher.died_at(last(dispatcher, everybody))
    assert everybody.told == []
    dispatcher.finish(Report(RESULT, last(dispatcher, everybody), 0, b""))
    assert everybody.told == [(2, "answered")]


def test_an_answer_that_comes_behind_its_timeout_counts_for_nothing(
    dispatcher: Dispatcher, everybody: Everybody
) -> None:
    dispatcher.submit(task(3))
    number = last(dispatcher, everybody)
    dispatcher.fail(dispatcher.in_flight[number], RequestTimeout("late"))
    assert not dispatcher.finish(Report(RESULT, number, 0, b""))
    dispatcher.uncount(0)  # the worker counts one answer
    assert everybody.told == [(3, "timeout")]
    assert dispatcher.counts == {"timeout": 1, "answered": -1}


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.EMFILE])
def test_what_the_system_lacks_for_the_moment_costs_no_request(
    dispatcher: Dispatcher, everybody: Everybody, number: int
) -> None:
    everybody.refusals = [OSError(number, "short of it")]
    dispatcher.submit(task(4))
    dispatcher.pass_on()
    assert (everybody.passed, everybody.told, len(dispatcher.queue)) == ([], [], 1)
    dispatcher.finish(Report(RESULT, last(dispatcher, everybody), 0, b""))
    assert everybody.told == [(4, "answered")]


@pytest.mark.parametrize("number", [errno.EMSGSIZE, errno.EINVAL])
def test_an_error_of_the_call_costs_its_request_alone(
    dispatcher: Dispatcher, everybody: Everybody, number: int
) -> None:
    everybody.refusals = [OSError(number, "refused")]
    dispatcher.submit(task(5))
    dispatcher.submit(task(6))
    dispatcher.finish(Report(RESULT, last(dispatcher, everybody), 0, b""))
    assert everybody.told == [(5, "internal"), (6, "answered")]
