"""Leader, followers and keeper: each task answered once, in its time, whatever a thread is stuck at."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.errors import Overloaded, ServerUnavailable, ServingError
from imdb_serving.server import server_threads as module
from imdb_serving.server import watchdog
from imdb_serving.server.channel import Frames
from imdb_serving.server.request_queue import Task
from imdb_serving.server.server_threads import ServerThreads
from imdb_serving.server.watchdog import Watchdog
from imdb_serving.server.worker import BRIEF_NS, step_timer
from imdb_serving.server.worker_pool import WorkerPool
from imdb_serving.timing import Stage


class MemoryFront:
    """A front whose requests are put into a list, and whose answers are kept."""

    submit: Callable[[Task], None]
    abandon: Callable[[Hashable], None]
    set_back: Callable[[Hashable], None]

    def __init__(self) -> None:
        self.arrived: deque[Task] = deque()
        self.outcomes: list[tuple[int, str]] = []
        self.batches: list[int] = []
        self.waker = threading.Event()
        self.looked_after = 0

    def arrive(self, number: int, seconds: float = 10.0, *frames: bytes) -> None:
        self.come(number, seconds, *frames)
        self.waker.set()

    def come(self, number: int, seconds: float = 10.0, *frames: bytes) -> None:
        """Arrive, but let nobody know."""
        now = time.perf_counter_ns()
        message = frames or (b"%d" % number,)
        self.arrived.append(Task(None, number, now, time.monotonic() + seconds, message, sum(map(len, message))))

    def receive(self) -> bool:
        while self.arrived:
            try:
                task = self.arrived.popleft()
            except IndexError:
                break
            try:
                self.submit(task)
            except ServingError as error:
                self.fail(task, error)
        return False

    def owner(self, task: Task) -> Hashable:
        return task.route

    def glance(self) -> None:
        self.receive()

    def wait(self) -> None:
        self.waker.wait(10)
        self.waker.clear()

    def wake(self) -> None:
        self.waker.set()

    def look_after(self) -> None:
        self.looked_after += 1

    def answer(self, task: Task, outcome: Frames) -> None:
        self.outcomes.append((task.request_id, bytes(outcome[0]).decode()))
        self.receive()

    def answer_all(self, held: deque[tuple[Task, Frames]]) -> None:
        if held:
            self.batches.append(len(held))
        while held:
            self.answer(*held.popleft())

    def fail(self, task: Task, error: ServingError) -> None:
        self.outcomes.append((task.request_id, error.code))

    def results(self, count: int) -> dict[int, str]:
        """The outcomes, once there are so many; each task has one."""
        assert wait_until(lambda: len(self.outcomes) >= count)
        assert len(self.outcomes) == count
        assert len(dict(self.outcomes)) == count
        return dict(self.outcomes)


class Gate:
    """A handler that answers at once, but waits at a gate when its frame says so."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.at_work: list[bytes] = []

    def __call__(self, received_ns: int, frames: Frames) -> Frames:
        self.at_work.append(bytes(frames[0]))
        if frames[0] == b"gate":
            self.gate.wait(20)
        return [b"done"]


@contextmanager
def running(
    gate: Gate, threads: int, *, watchdog: bool = True, **limits: int
) -> Iterator[tuple[ServerThreads, MemoryFront]]:
    """Server threads, with a watchdog in a thread unless the test calls it."""
    listener = MemoryFront()
    pool = WorkerPool(lambda: gate, threads, "thread")
    pool.start()
    threads = ServerThreads(listener, threads, pool.call, trusted=False, **limits)
    own_watchdog = Watchdog(threads, pool.replace_stuck)
    threads.start()
    over = threading.Event()

    def keep() -> None:
        while not over.is_set():
            own_watchdog.keep(0.05)

    keeping = threading.Thread(target=keep)
    if watchdog:
        keeping.start()
    try:
        yield threads, listener
    finally:
        over.set()
        if watchdog:
            keeping.join(10)
        gate.gate.set()
        threads.stop()
        pool.stop()
        assert not keeping.is_alive()


def test_the_keeper_looks_after_the_front_also_when_nothing_arrives() -> None:
    with running(Gate(), 2) as (_, listener):
        assert wait_until(lambda: listener.looked_after > 60)


def test_every_task_is_answered_once() -> None:
    with running(Gate(), 3) as (_, listener):
        for number in range(500):
            listener.arrive(number)
        assert listener.results(500) == dict.fromkeys(range(500), "done")


def test_a_task_that_is_stuck_holds_up_no_other() -> None:
    gate = Gate()
    with running(gate, 2) as (_, listener):
        listener.arrive(0, 10.0, b"gate")
        assert wait_until(lambda: gate.at_work == [b"gate"])
        for number in range(1, 50):
            listener.arrive(number)
        assert listener.results(49) == dict.fromkeys(range(1, 50), "done")
        gate.gate.set()
        assert listener.results(50)[0] == "done"


def test_deadlines_hold_while_every_thread_is_stuck() -> None:
    gate = Gate()
    with running(gate, 1) as (_, listener):
        listener.arrive(0, 0.3, b"gate")
        assert wait_until(lambda: bool(gate.at_work))
        listener.arrive(1, 0.1)
        listener.arrive(2, 10.0)
        assert listener.results(2) == {0: "timeout", 1: "timeout"}
        gate.gate.set()
        assert listener.results(3)[2] == "done"  # and the late answer of the first goes nowhere
        assert gate.at_work == [b"gate", b"2"]  # what was late is not worked on


def test_a_thread_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LATE_SECONDS", 0.1)
    gate = Gate()
    with running(gate, 1) as (threads, listener):
        (stuck,) = threads.members
        listener.arrive(0, 0.1, b"gate")
        assert wait_until(lambda: stuck not in threads.members)
        listener.arrive(1)
        assert listener.results(2) == {0: "timeout", 1: "done"}
        gate.gate.set()
        assert wait_until(lambda: not stuck.thread.is_alive())
        listener.arrive(2)
        assert listener.results(3)[2] == "done"


def test_the_queue_is_bounded_by_its_length_and_its_bytes() -> None:
    gate = Gate()
    with running(gate, 1, max_queue=3, max_queue_bytes=300_000) as (_, listener):
        listener.arrive(0, 10.0, b"gate")
        assert wait_until(lambda: bool(gate.at_work))
        listener.arrive(1, 10.0, bytes(200_000))
        listener.arrive(2, 10.0, bytes(200_000))
        assert listener.results(1) == {2: Overloaded.code}
        for number in (3, 4, 5):
            listener.arrive(number)
        assert listener.results(2)[5] == Overloaded.code
        gate.gate.set()
        assert listener.results(6) == {0: "done", 1: "done", 2: "overloaded", 3: "done", 4: "done", 5: "overloaded"}


def test_a_request_larger_than_the_queue_may_hold_is_taken_when_nothing_waits() -> None:
    with running(Gate(), 1, max_queue_bytes=100_000) as (_, listener):
        listener.arrive(0, 10.0, bytes(200_000))
        assert listener.results(1) == {0: "done"}


def test_draining_answers_all_that_had_arrived_and_refuses_the_rest() -> None:
    gate = Gate()
    with running(gate, 1, watchdog=False) as (threads, listener), kit.side_by_side(1) as run:
        listener.arrive(0, 10.0, b"gate")
        assert wait_until(lambda: bool(gate.at_work))
        for number in range(1, 200):
            listener.arrive(number)
        drained = run(Watchdog(threads).drain, 10.0)
        assert wait_until(lambda: threads.refusing is not None)
        listener.arrive(200)
        assert listener.results(1) == {200: ServerUnavailable.code}
        gate.gate.set()
        drained.result(10)
        assert listener.results(201) == {**dict.fromkeys(range(200), "done"), 200: "unavailable"}


def test_what_draining_does_not_come_to_in_its_time_is_refused() -> None:
    gate = Gate()
    with running(gate, 1, watchdog=False) as (threads, listener):
        listener.arrive(0, 10.0, b"gate")
        assert wait_until(lambda: bool(gate.at_work))
        listener.arrive(1)
        Watchdog(threads).drain(0.1)
        assert listener.results(2) == {0: "unavailable", 1: "unavailable"}


def test_a_fault_in_the_work_costs_its_request_and_not_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    listener = MemoryFront()

    def work(task: Task) -> Frames:
        if task.request_id == 0:
            raise ZeroDivisionError("secret")
        return [b"done"]

    threads = ServerThreads(listener, 1, work)
    threads.start()
    listener.arrive(0)
    listener.arrive(1)
    assert listener.results(2) == {0: "internal", 1: "done"}
    threads.stop()
    assert "ZeroDivisionError: secret" in caplog.text


class Told:
    """A handler that says of its requests how long they leave the interpreter to others, and by whom it was called."""

    def __init__(self, nanoseconds: int) -> None:
        self.nanoseconds = nanoseconds
        self.threads: list[str] = []
        self.gate = threading.Event()

    def __call__(self, received_ns: int, frames: Frames) -> Frames:
        self.threads.append(threading.current_thread().name)
        if frames[0] == b"gate":
            self.gate.wait(20)
        step_timer.record([Stage("op1", 0, self.nanoseconds)])
        return [b"done"]


def one_after_another(listener: MemoryFront, count: int, begin: int = 0) -> None:
    for number in range(begin, begin + count):
        listener.arrive(number)
        assert wait_until(lambda wanted=number + 1: len(listener.outcomes) == wanted, 8)


def test_brief_work_is_done_by_the_leader_alone() -> None:
    observed = Told(1000)
    # without the keeper, which passes the lead on when a busy machine has the leader wait in the middle of its work
    with running(observed, 3, watchdog=False) as (threads, listener):  # type: ignore[arg-type]
        one_after_another(listener, 20)  # learns
        assert wait_until(lambda: len(threads.leadership.parked) == 2)
        observed.threads.clear()
        one_after_another(listener, 50, 20)
        assert len(set(observed.threads)) == 1


def test_work_that_leaves_the_interpreter_to_others_is_shared() -> None:
    observed = Told(10_000_000)
    with running(observed, 3) as (_, listener):  # type: ignore[arg-type]
        one_after_another(listener, 40)
        assert len(set(observed.threads)) > 1


def test_a_leader_that_is_at_something_longer_than_it_thought_gives_up_the_lead() -> None:
    observed = Told(1000)
    with running(observed, 2) as (_, listener):  # type: ignore[arg-type]
        one_after_another(listener, 20)
        listener.arrive(20, 10.0, b"gate")
        assert wait_until(lambda: len(observed.threads) == 21)
        for number in range(21, 50):
            listener.arrive(number)
        assert wait_until(lambda: len(listener.outcomes) == 49)  # all but the one at the gate
        observed.gate.set()
        assert listener.results(50)[20] == "done"


def test_answers_of_brief_work_leave_together_when_more_waits() -> None:
    with running(Told(1000), 1, watchdog=False) as (_, listener):  # type: ignore[arg-type]
        one_after_another(listener, 20)
        assert not listener.batches
        for number in range(20, 20 + 2 * module.MAX_HELD + 5):
            listener.come(number)
        listener.wake()
        listener.results(25 + 2 * module.MAX_HELD)
        assert listener.batches == [module.MAX_HELD, module.MAX_HELD, 4]  # the last one waits for nobody


def test_answers_that_are_held_back_do_not_wait_for_a_slow_request() -> None:
    observed = Told(1000)
    with running(observed, 2) as (_, listener):  # type: ignore[arg-type]
        one_after_another(listener, 20)
        listener.come(20)
        listener.come(21, 10.0, b"gate")
        listener.wake()
        assert wait_until(lambda: (20, "done") in listener.outcomes and len(observed.threads) == 22)
        observed.gate.set()
        assert listener.results(22)[21] == "done"


def test_answers_that_are_held_back_leave_before_the_lead_is_passed_on() -> None:
    observed = Told(1000)
    with running(observed, 2, watchdog=False) as (threads, listener):  # type: ignore[arg-type]
        one_after_another(listener, 20)
        assert threads.leadership.holder is not None
        threads._held.append((Task(None, 20, 0, time.monotonic() + 10, (b"20",), 2), [b"done"]))
        threads._typical.nanoseconds = 2 * BRIEF_NS
        listener.arrive(21, 10.0, b"gate")
        assert wait_until(lambda: (20, "done") in listener.outcomes)
        observed.gate.set()
        assert listener.results(22)[21] == "done"


class FaultyFront(MemoryFront):
    """A front that fails, as no front should, while there are faults left."""

    def __init__(self, faults: int) -> None:
        super().__init__()
        self.faults = faults

    def receive(self) -> bool:
        self._fail_maybe()
        return super().receive()

    def answer(self, task: Task, outcome: Frames) -> None:
        super().answer(task, outcome)
        self._fail_maybe()

    def _fail_maybe(self) -> None:
        if self.faults:
            self.faults -= 1
            raise ZeroDivisionError("in the front")


def test_a_fault_in_the_front_costs_neither_a_thread_nor_the_lead(caplog: pytest.LogCaptureFixture) -> None:
    listener = FaultyFront(5)
    threads = ServerThreads(listener, 2, lambda task: [b"done"])
    threads.start()
    for number in range(20):
        listener.arrive(number)
        assert wait_until(lambda wanted=number + 1: len(listener.outcomes) == wanted)
    assert listener.faults == 0
    assert all(server_thread.thread.is_alive() for server_thread in threads.members)
    threads.stop()
    assert "goes on behind a fault" in caplog.text
