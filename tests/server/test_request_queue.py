"""Who may wait: the queue's bounds, what is hopeless, who takes more than a share, and whose client is gone."""

from __future__ import annotations

import time
from typing import Any

import pytest

from imdb_serving.errors import Overloaded
from imdb_serving.server.request_queue import REST_SECONDS, RequestQueue, Task, WaitEstimator


def task(owner: str = "a", seconds: float = 10.0, size: int = 1) -> Task:
    return Task(owner, 0, 0, time.monotonic() + seconds, None, size)


def waiting(idle: int = 0, **limits: int) -> RequestQueue:
    return RequestQueue(lambda task: task.route, lambda: idle, **limits)


def steady(estimator: WaitEstimator, seconds_each: float, busy: int = 1, ticks: int = 200) -> float:
    """Have the estimator see requests taken at equal intervals, while others wait; the time afterwards."""
    now = 1000.0
    for tick in range(ticks):
        now += seconds_each
        estimator.look(now, tick, busy, waiting=True)
    return now


def test_the_pace_is_that_of_the_requests_taken_while_others_wait() -> None:
    estimator = WaitEstimator()
    steady(estimator, 0.01, busy=3)
    assert estimator.seconds_each == pytest.approx(0.01)
    assert estimator.service == pytest.approx(0.03)


def test_nothing_is_hopeless_before_the_pace_is_known() -> None:
    estimator = WaitEstimator()
    estimator.look(1.0, 0, 1, waiting=True)
    estimator.look(100.0, 1, 1, waiting=True)
    assert not estimator.is_hopeless(1000, 0.001)


@pytest.mark.parametrize(("waiting", "seconds", "hopeless"), [(49, 1.0, False), (51, 1.0, True), (1, 0.015, True)])
def test_what_would_wait_half_its_time_or_be_late_is_hopeless(waiting: int, seconds: float, hopeless: bool) -> None:
    estimator = WaitEstimator()
    steady(estimator, 0.01)
    assert estimator.is_hopeless(waiting, seconds) == hopeless


def test_the_pace_follows_a_change() -> None:
    estimator = WaitEstimator()
    now = steady(estimator, 0.001)
    for tick in range(200, 700):
        now += 0.02
        estimator.look(now, tick, 1, waiting=True)
    assert estimator.seconds_each == pytest.approx(0.02, rel=0.1)


def test_the_pace_of_long_ago_is_forgotten_and_that_of_now_is_not() -> None:
    estimator = WaitEstimator()
    now = steady(estimator, 0.01)
    estimator.look(now + 1, 200, 0, waiting=False)
    assert estimator.seconds_each
    estimator.look(now + 1 + REST_SECONDS, 200, 0, waiting=False)
    assert (estimator.seconds_each, estimator.service) == (0.0, 0.0)


def test_a_pause_of_the_clients_is_not_taken_for_the_servers_pace() -> None:
    estimator = WaitEstimator()
    now = steady(estimator, 0.01)
    estimator.look(now + 1, 200, 0, waiting=False)
    estimator.look(now + 2, 200, 1, waiting=True)
    estimator.look(now + 2.01, 201, 1, waiting=True)
    assert estimator.seconds_each == pytest.approx(0.01)


def test_a_hopeless_request_is_refused_at_once_and_others_are_let_in() -> None:
    queue = waiting()
    steady(queue.estimator, 0.1)
    for _ in range(5):
        queue.admit(task(seconds=60))
    with pytest.raises(Overloaded, match="the deadline would pass before the answer"):
        queue.admit(task(seconds=0.5))
    queue.admit(task(seconds=60))
    assert (len(queue), queue.counts["refused"]) == (6, 1)


def test_those_that_were_passed_on_and_wait_count_too() -> None:
    queue = waiting(idle=-4, max_passed=4)
    steady(queue.estimator, 1.0)
    queue.admit(task())
    queue.admit(task(seconds=14))  # the sixth of those that wait
    with pytest.raises(Overloaded, match="the deadline would pass before the answer"):
        queue.admit(task(seconds=13))  # the seventh
    assert len(queue) == 2


def test_a_request_that_a_thread_is_free_for_is_never_hopeless() -> None:
    queue = waiting(idle=2)
    steady(queue.estimator, 10.0)
    queue.admit(task(seconds=0.5))
    queue.admit(task(seconds=0.5))
    assert len(queue) == 2


def test_what_was_taken_too_late_is_given_up_only_while_others_wait() -> None:
    queue = waiting()
    now = steady(queue.estimator, 0.1)
    queue.tasks.append(task())
    queue.look(now, 199, 1)
    assert queue.shed_seconds == pytest.approx(0.1)
    queue.tasks.clear()
    queue.look(now, 199, 1)
    assert queue.shed_seconds == 0.0


def test_one_client_may_have_half_of_the_queue() -> None:
    queue = waiting(max_queue=10)
    for _ in range(6):
        queue.admit(task("greedy"))
    queue.look(time.monotonic(), 0, 1)
    with pytest.raises(Overloaded, match="read some answers first"):
        queue.admit(task("greedy"))
    queue.admit(task("modest"))
    queue.tasks.popleft()
    queue.look(time.monotonic(), 0, 1)
    queue.admit(task("greedy"))


def test_the_requests_of_a_client_that_is_gone_are_forgotten() -> None:
    queue = waiting()
    tasks = [task(owner) for owner in "abab"]
    for each in tasks:
        queue.admit(each)
    queue.set_back("b")
    queue.abandon("a")
    queue.abandon("b")
    assert (len(queue), queue.counts["abandoned"]) == (0, 4)
    assert not any(each.try_finish() for each in tasks)  # nobody can answer them any more


def test_the_requests_of_a_client_that_says_no_more_wait_behind_all_others() -> None:
    queue = waiting()
    for owner in "abc":
        queue.admit(task(owner))
    queue.set_back("a")
    assert [each.route for each in queue.tasks] == ["b", "c"]
    assert [each.route for each in queue.behind] == ["a"]


@pytest.mark.parametrize("back", [False, True])
def test_what_is_late_is_taken_out_wherever_it_waits(back: bool) -> None:
    queue = waiting()
    late, early = task("a", 1.0), task("a", 100.0)
    queue.admit(late)
    queue.admit(early)
    if back:
        queue.set_back("a")
    assert queue.late(time.monotonic() + 50) == [late]
    assert queue.clear() == [early]
    assert queue.counts == {"late": 1}


@pytest.mark.parametrize(("idle", "let_in"), [(0, 0), (3, 3)])
def test_without_a_queue_only_free_threads_are_given_work(idle: int, let_in: int) -> None:
    queue: Any = waiting(idle=idle, max_queue=0)
    for _ in range(let_in):
        queue.admit(task())
    with pytest.raises(Overloaded, match="0 requests wait already"):
        queue.admit(task())
