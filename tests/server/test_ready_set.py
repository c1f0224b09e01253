"""The ready set, the scoreboard and the hand-over: who is given what, and how others know it."""

from __future__ import annotations

import os
import resource
import select
import socket
import sys
import threading
from collections.abc import Iterator

import pytest
from waiting import wait_until

from imdb_serving.server.workers import ready_set, worker
from imdb_serving.server.workers.handover import INLINE_BYTES, LEFT, RESULT, SCRATCH_BYTES, Handover, Passed
from imdb_serving.server.workers.ready_set import EpollReadySet, ReadySet, SelectorReadySet
from imdb_serving.server.workers.scoreboard import (
    AT,
    BEAT,
    EXPIRED,
    MOST_TAKEN,
    OUTCOMES,
    PASSED,
    REVOKED,
    TURN,
    Row,
    Scoreboard,
)

KINDS = [SelectorReadySet, *([EpollReadySet] if hasattr(select, "epoll") else [])]


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard(2, 4096)


@pytest.fixture(params=KINDS)
def ready(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReadySet]:
    monkeypatch.setattr(ready_set, "WAIT_SECONDS", 0.05)
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def wait(ready: ReadySet, row: Row, most: int = 1) -> list[int]:
    """What a worker is given, as its row says it."""
    count = ready.waiter(row)(most)
    given = row.numbers.tolist()[:count]
    row.leave(count)
    return given


def test_what_is_armed_is_given_once(ready: ReadySet, board: Scoreboard, pair) -> None:
    number = pair[0].fileno()
    pair[1].send(b"x")
    assert wait(ready, board.rows[0]) == []  # not armed yet
    ready.arm(number)
    assert wait(ready, board.rows[0]) == [number]
    assert wait(ready, board.rows[1]) == []
    ready.arm(number)
    assert wait(ready, board.rows[1]) == [number]


def test_what_was_disarmed_is_given_to_nobody_also_when_it_fails(ready: ReadySet, board: Scoreboard, pair) -> None:
    number = pair[0].fileno()
    ready.arm(number)
    pair[1].send(b"x")
    ready.disarm(number)
    assert wait(ready, board.rows[0]) == []
    ready.arm(number)
    assert wait(ready, board.rows[0]) == [number]
    ready.arm(number)
    ready.disarm(number)
    pair[0].shutdown(socket.SHUT_RDWR)  # which an epoll tells whether it was asked or not
    pair[1].close()
    assert wait(ready, board.rows[0]) == []
    ready.disarm(number)


def test_what_is_armed_while_somebody_waits_is_given_to_that_one(ready: ReadySet, board: Scoreboard, pair) -> None:
    given: list[int] = []
    number = pair[0].fileno()

    def take() -> None:
        while not given:
            given.extend(wait(ready, board.rows[0]))

    taker = threading.Thread(target=take)
    taker.start()
    pair[1].send(b"x")
    ready.arm(number)
    taker.join(10)
    assert given == [number]


def test_all_that_wait_are_woken_at_the_end(ready: ReadySet, board: Scoreboard, monkeypatch) -> None:
    monkeypatch.setattr(ready_set, "WAIT_SECONDS", 60.0)
    waiting = [threading.Thread(target=ready.waiter(row), args=(1,), daemon=True) for row in board.rows]
    for thread in waiting:
        thread.start()
    ready.wake_all()
    assert wait_until(lambda: not any(thread.is_alive() for thread in waiting), 10)


def test_a_row_tells_who_is_at_a_connection(board: Scoreboard) -> None:
    row = board.rows[0]
    row.clear()
    assert not row.is_busy
    row.numbers[0], row.numbers[1] = 7, 9
    assert (row.is_busy, row.is_at(7), row.is_at(9), row.is_at(8), row.number) == (True, True, True, False, 7)
    row.cells[EXPIRED] = row.cells[TURN]  # what it is at now was answered in its place
    assert (row.is_at(7), row.is_at(9)) == (False, True)
    row.cells[EXPIRED] = -1
    row.cells[AT] = 1
    row.cells[REVOKED] = row.cells[BEAT]  # all but what it is at now were given to others
    assert (row.is_at(7), row.is_at(9)) == (False, True)
    row.leave(2)
    assert (row.is_busy, row.number, row.is_at(7)) == (False, 0, False)


def test_counts_stay_when_a_row_is_cleared(board: Scoreboard) -> None:
    for row, turns in zip(board.rows, (3, 4), strict=True):
        row.cells[TURN], row.cells[OUTCOMES], row.cells[OUTCOMES + 1] = turns, turns - 1, 1
        row.numbers[MOST_TAKEN - 1] = 5
        row.clear()
        assert not row.is_busy
    assert board.turns() == 7
    assert (board.outcomes()["answered"], board.outcomes()["bad_request"]) == (5, 2)


def test_rows_of_another_process_are_the_same_memory(board: Scoreboard) -> None:
    if board.file < 0:
        pytest.skip("no memory can be shared here")
    other = Scoreboard(2, 4096, board.file)
    other.rows[1].cells[TURN] = 12
    board.connections[4 * 100] = 34
    assert (board.turns(), other.connections[4 * 100]) == (12, 34)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("size", [0, 10, INLINE_BYTES, INLINE_BYTES + 1, 5 << 20])
def test_a_request_is_passed_on_and_its_answer_comes_back(board: Scoreboard, local: bool, size: int) -> None:
    handover, row = Handover(local=local), board.rows[0]
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    try:
        assert handover.take(row, memoryview(bytearray(SCRATCH_BYTES))) is None
        assert handover.pass_on(Passed(41, 2, 3, message))
        assert handover.take(row, memoryview(bytearray(SCRATCH_BYTES))) == (41, 2, 3, message)
        assert row.cells[PASSED] == 41
        assert handover.next_report() is None
        handover.report(LEFT, 8)
        handover.report(RESULT, 41, 5, message)
        assert handover.next_report() == (LEFT, 8, 0, b"")
        assert handover.next_report() == (RESULT, 41, 5, message)
        assert handover.next_report() is None
    finally:
        handover.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no files in memory here")
def test_an_answer_whose_file_finds_no_descriptor_is_told_of(board: Scoreboard) -> None:
    handover = Handover(local=False)
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        handover.report(RESULT, 41, 5, bytes(INLINE_BYTES + 1))
        os.close(lowest := os.dup(2))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            report = handover.next_report()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        assert report == (RESULT, 41, 5, None)
    finally:
        handover.close()


def test_a_request_that_finds_no_room_is_not_passed_on(board: Scoreboard) -> None:
    handover = Handover(local=False)
    try:
        taken = 0
        while handover.pass_on(Passed(taken + 1, 0, 0, bytes(INLINE_BYTES))):
            taken += 1
        assert taken > 0
        for number in range(taken):
            passed = handover.take(board.rows[0], memoryview(bytearray(SCRATCH_BYTES)))
            assert passed is not None
            assert passed.number == number + 1
        assert handover.pass_on(Passed(taken + 1, 0, 0, b""))
    finally:
        handover.close()


def test_the_clocks_are_compared_though_the_thread_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks = iter([1_000, 91_000, 200_000, 200_400])  # the first two are 90 µs apart: read again
    walls = iter([5_000_090_000, 5_000_199_200])
    monkeypatch.setattr(worker, "perf_counter_ns", lambda: next(clocks))
    monkeypatch.setattr(worker, "time_ns", lambda: next(walls))
    assert 5_000_099_200 - worker.wall_clock_ahead_ns() == 100_400
