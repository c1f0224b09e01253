"""The open loop: a schedule drawn beforehand, requests sent when due, latency from when they were due."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from loads import lines_of

from imdb_serving.analysis.summary import open_latency, open_loop
from imdb_serving.cell import Cell, Row
from imdb_serving.clients.connect import connect
from imdb_serving.errors import ConfigError
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.load.open_loop import Tickets, arrival_times
from imdb_serving.measurement.measure import Round, Target, measure
from imdb_serving.server_process import ServerProcess

SECOND = 10**9


def test_poisson_arrivals_have_the_asked_rate_and_the_gaps_of_chance() -> None:
    times = arrival_times("poisson", 500.0, 20_000, seed=7)
    assert (np.diff(times) >= 0).all()
    assert times[-1] / SECOND == pytest.approx(40, rel=0.01)
    gaps = np.diff(times) / SECOND
    assert gaps.mean() == pytest.approx(1 / 500, rel=0.01)
    assert gaps.std() == pytest.approx(1 / 500, rel=0.05)  # an exponential's spread is its mean
    assert (times == arrival_times("poisson", 500.0, 20_000, seed=7)).all()
    assert (times != arrival_times("poisson", 500.0, 20_000, seed=8)).any()


def test_even_arrivals_and_all_at_once() -> None:
    assert arrival_times("constant", 4.0, 3, seed=1).tolist() == [0, SECOND // 4, SECOND // 2]
    assert arrival_times("offline", 0.0, 3, seed=1).tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match="arrivals: 'closed' has no times"):
        arrival_times("closed", 1.0, 3, seed=1)


def test_every_ticket_is_given_out_once_and_in_order(tmp_path: Path) -> None:
    def take(_: int) -> list[int]:
        with Tickets(tmp_path / "tickets") as tickets:
            return [tickets.take() for _ in range(200)]

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, range(8)))
    assert sorted(number for own in taken for number in own) == list(range(1600))
    assert all(own == sorted(own) for own in taken)


def record(due: list[int], sent: list[int], service: int) -> ClientRecord:
    made = ClientRecord(
        ("prepro", "client_infer", "postpro", "total"), list(range(len(due))), np.array(sent),
        np.column_stack([np.zeros(len(due), np.int64), *[np.full(len(due), service)] * 3]), window_ns=(1, 2),
    )  # fmt: skip
    made.intended_ns = np.array(due)
    return made


def test_latency_counts_from_when_a_request_was_due() -> None:
    figures = open_latency([record([0, 1_000_000], [0, 4_000_000], 500_000)])
    assert figures["p50_us"] == pytest.approx((500 + 3500) / 2)
    assert figures["service_p50_us"] == pytest.approx(500)
    assert figures["p99_us"] is None  # two requests certify nothing


def test_a_server_that_falls_behind_has_not_reached_the_rate() -> None:
    due = [number * 1_000_000 for number in range(1000)]
    keeps_up = open_loop([record(due, due, 500_000)], rate=1000.0)
    behind = open_loop([record(due, [int(time * 1.1) for time in due], 500_000)], rate=1000.0)
    assert keeps_up["achieved"] == pytest.approx(1000)
    assert behind["achieved"] == pytest.approx(1000 / 1.1)


def measured(cell: Cell, endpoint: str, pid: int, timeout: float = 10.0, seed: int = 1) -> Row:
    lines = lines_of(cell.samples)
    around = Round("one", 1, seed, "", "", lines, reference=np.full((len(lines), 2), 0.5))
    target = Target(functools.partial(connect, endpoint, timeout), (pid,))
    with LoadSession({"": target.connect}, cell.client_threads, timeout) as session:
        return measure(cell, around, session, "", target)[0]


@pytest.fixture
def simulated() -> ServerProcess:
    arguments = ["--engine", "simulated", "--service-time-ms", "5", "--server-threads", "2"]
    with ServerProcess(arguments) as server:
        yield server


def test_every_request_is_sent_once_and_answered_right(simulated: ServerProcess) -> None:
    cell = Cell(engine="simulated", arrivals="poisson", rate=100.0, client_threads=4, samples=60, batch=2)
    row = measured(cell, simulated.endpoint, simulated.pid)
    assert (row.requests, row.answered, row.unsent, row.failed_requests, row.error) == (30, 60, 0, 0, "")
    assert row.difference == 0.0
    assert row.figures.offered == 100.0
    assert row.figures.p50_us >= row.figures.service_p50_us


def test_a_rate_that_cannot_be_reached_makes_the_cell_invalid_by_name(simulated: ServerProcess) -> None:
    """Two workers of 5 ms answer at most 400 requests a second."""
    cell = Cell(engine="simulated", arrivals="constant", rate=2000.0, client_threads=8, samples=600)
    row = measured(cell, simulated.endpoint, simulated.pid)
    assert row.status == "invalid"
    assert "rate" in [finding.gate for finding in row.findings]
    assert row.figures.achieved < 500


def test_requests_overdue_by_more_than_a_deadline_are_not_sent_and_counted(simulated: ServerProcess) -> None:
    cell = Cell(engine="simulated", arrivals="constant", rate=100_000.0, client_threads=2, samples=600)
    row = measured(cell, simulated.endpoint, simulated.pid, timeout=0.5)
    assert row.unsent > 0
    assert row.answered + row.failed_requests + row.unsent == 600
    assert any("were never sent" in finding.seen for finding in row.findings)


def test_all_at_once_is_answered_as_fast_as_the_workers_can(simulated: ServerProcess) -> None:
    cell = Cell(engine="simulated", arrivals="offline", client_threads=4, samples=100)
    row = measured(cell, simulated.endpoint, simulated.pid)
    assert (row.answered, row.unsent) == (100, 0)
    assert row.figures.throughput * row.means_us["op1"] / 1e6 <= 2 * (1 + 1e-9)  # that many are at work on average


def test_a_server_that_stops_is_charged_for_all_that_had_to_wait(simulated: ServerProcess) -> None:
    """Stopped for a second in four: the latency from when requests were due shows it, the service time hides it."""
    cell = Cell(engine="simulated", arrivals="constant", rate=250.0, client_threads=4, samples=1000)

    def stop() -> None:
        time.sleep(1.5)
        os.kill(simulated.pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(simulated.pid, signal.SIGCONT)

    stopper = threading.Thread(target=stop)
    stopper.start()
    row = measured(cell, simulated.endpoint, simulated.pid)
    stopper.join()
    assert row.answered == 1000
    assert row.figures.p99_us > 500_000
    assert row.figures.service_p99_us < row.figures.p99_us / 2
