"""The load generator: every request is answered or recorded as failed, once, whatever dies."""

from __future__ import annotations

import functools
import multiprocessing
import socket
from collections.abc import Iterator
from time import monotonic

import numpy as np
import pytest
from loads import lines_of, positions, shares_of

from imdb_serving.analysis.summary import wall_seconds
from imdb_serving.clients.zeromq import RpcClient
from imdb_serving.config import MAX_TIMEOUT
from imdb_serving.load.client_processes import Connect, run_load
from imdb_serving.load.closed_loop import GIVE_UP_AFTER, ClientRecord
from imdb_serving.server_process import ServerProcess
from imdb_serving.text.formats import Line
from imdb_serving.timing import CLIENT_STAGES


def connector(endpoint: str, timeout: float = 5.0) -> Connect:
    return functools.partial(RpcClient, endpoint, timeout=timeout)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An endpoint at which nothing listens, while nobody else can take it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{taken.getsockname()[1]}"


def seen(record: ClientRecord) -> list[int]:
    return sorted([*record.positions, *(failure.position for failure in record.failures)])


@pytest.fixture(scope="module")
def records(null_server: ServerProcess) -> list[ClientRecord]:
    return run_load(connector(null_server.endpoint), shares_of(lines_of(100), 3), 5.0)


def test_three_clients_answer_every_position_once(records: list[ClientRecord]) -> None:
    assert [record.positions for record in records] == [list(range(33)), list(range(34)), list(range(33))]
    assert not any(record.failures for record in records)
    assert [len(record.outcomes) for record in records] == [33, 34, 33]


def test_outcomes_are_their_own_lines(records: list[ClientRecord]) -> None:
    labels = [result.label for record in records for outcome in record.outcomes for result in outcome]
    assert labels == [number % 2 for number in range(1, 101)]


RPC_STAGES = tuple(name for name in CLIENT_STAGES if name not in {"parse", "handover"})


def column(records: list[ClientRecord], *names: str) -> np.ndarray:
    """The sum of the named columns, a value a request."""
    return np.concatenate(
        [record.durations[:, [record.columns.index(name) for name in names]].sum(axis=1) for record in records]
    )


@pytest.mark.parametrize(
    ("whole", "parts"), [("total", ("prepro", "client_infer", "postpro")), ("client_infer", RPC_STAGES)]
)
def test_the_parts_add_up_to_the_whole(records: list[ClientRecord], whole: str, parts: tuple[str, ...]) -> None:
    gap = np.median(np.abs(column(records, whole) - column(records, *parts)))
    assert gap <= max(0.01 * np.median(column(records, whole)), 50_000)
    assert min(column(records, part).min() for part in parts) >= 0


def test_requests_of_a_client_follow_one_another_within_its_window(records: list[ClientRecord]) -> None:
    for record in records:
        ends = record.starts_ns + column([record], "total")
        assert (record.starts_ns[1:] >= ends[:-1]).all()
        assert record.window_ns[0] <= record.starts_ns[0]
        assert ends[-1] <= record.window_ns[1]


def test_clients_work_at_the_same_time() -> None:
    with ServerProcess(["--engine", "simulated", "--service-time-ms", "20", "--server-threads", "3"]) as server:
        records = run_load(connector(server.endpoint), [positions(20)] * 3, 5.0)
    alone = sum((end - start) / 1e9 for start, end in (record.window_ns for record in records))
    assert wall_seconds(records) < 0.7 * alone


def test_a_malformed_line_fails_alone(null_server: ServerProcess) -> None:
    lines = [*lines_of(4), Line("made", 5, "9 1 2 0"), *lines_of(3)]
    (record,) = run_load(connector(null_server.endpoint), shares_of(lines, 1), 5.0)
    assert record.positions == [0, 1, 2, 3, 5, 6, 7]
    (failure,) = record.failures
    assert (failure.position, failure.code) == (4, "data")
    assert failure.message.startswith("made:5: ")


def test_clients_without_requests_are_fine(null_server: ServerProcess) -> None:
    records = run_load(connector(null_server.endpoint), shares_of(lines_of(2), 4), 5.0)
    assert sorted(len(record.positions) for record in records) == [0, 0, 1, 1]
    assert not any(record.failures for record in records)


def test_deadlines_that_add_up_to_months_are_waited_for(null_server: ServerProcess) -> None:
    """100 requests of a day each are more seconds than the kernel takes."""
    (record,) = run_load(connector(null_server.endpoint), [positions(100)], MAX_TIMEOUT)
    assert len(record.positions) == 100


def test_an_absent_server_is_given_up_soon(nowhere: str) -> None:
    begin = monotonic()
    records = run_load(connector(nowhere, 0.5), [positions(1000), positions(999)], 0.5)
    assert monotonic() - begin < 1000 * 0.5 / 10
    assert [seen(record) for record in records] == [list(range(1000)), list(range(999))]
    assert {failure.code for record in records for failure in record.failures} == {"unavailable"}
    assert nowhere in records[0].failures[0].message


def test_a_server_killed_midway_loses_no_position_and_holds_no_client() -> None:
    with ServerProcess(["--engine", "simulated", "--service-time-ms", "2", "--server-threads", "2"]) as server:
        begin = monotonic()
        loads = [positions(1000, at=20, victim=server.pid), positions(1000)]
        records = run_load(connector(server.endpoint, 0.5), loads, 0.5)
        took = monotonic() - begin
    assert took < 1000 * 0.5 / 10
    assert records[0].positions == list(range(20))
    for record in records:
        assert seen(record) == list(range(1000))
        assert record.positions == list(range(len(record.positions)))
        assert {failure.code for failure in record.failures} == {"unavailable"}
        tried = [failure for failure in record.failures if not failure.message.startswith("not sent")]
        assert len(tried) == GIVE_UP_AFTER


def test_late_answers_are_recorded_and_given_up() -> None:
    with ServerProcess(["--engine", "simulated", "--service-time-ms", "600", "--server-threads", "1"]) as server:
        (record,) = run_load(connector(server.endpoint, 0.1), [positions(50)], 0.1)
    assert seen(record) == list(range(50))
    assert {failure.code for failure in record.failures} == {"timeout"}


def test_a_client_process_that_dies_leaves_a_record_of_failures(null_server: ServerProcess) -> None:
    first, second = run_load(connector(null_server.endpoint), [positions(30, at=10), positions(30)], 5.0)
    assert first.positions == []
    assert [failure.position for failure in first.failures] == list(range(30))
    assert {failure.message for failure in first.failures} == {"the client process died"}
    assert second.positions == second.outcomes == list(range(30))


def test_no_client_process_outlives_the_load(null_server: ServerProcess) -> None:
    run_load(connector(null_server.endpoint), [positions(3)] * 3, 5.0)
    assert not [child for child in multiprocessing.active_children() if child.name.startswith("client-")]
