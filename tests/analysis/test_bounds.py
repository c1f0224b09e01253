"""Bounds and utilisation on made-up cells whose limits are known, and the law on throughputs that follow it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from imdb_serving.analysis import usl
from imdb_serving.analysis.bounds import bounds, utilisation

STAGES = ("encode", "send", "queue", "op0", "op1", "op2", "reply", "decode")


def cell(
    clients: int, workers: int, *, op1: float = 5000.0, cpu: float = 100.0, mode: str = "rpc", **own: Any
) -> dict[str, Any]:
    """A closed loop with a service time, 100 µs around it, and no other cost."""
    rate = min(clients, workers) / (op1 + 100) * 1e6
    return {
        "client_threads": clients, "server_threads": workers, "mode": mode, "stages": STAGES, "request_rate": rate,
        "total_us": clients / rate * 1e6, "op0_us": 10.0, "op1_us": op1, "op2_us": 10.0, "server_cpu_us": cpu,
        "client_cpu_us": cpu, "parse_us": 20.0, "handover_us": 30.0, "queue_us": 0.0,
        "worker_kind": "process",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("clients", "workers", "limit"),
    [(1, 4, "clients"), (3, 4, "clients"), (4, 4, "workers"), (16, 4, "workers"), (8, 1, "workers")],
)
def test_the_limit_of_a_service_time_is_the_smaller_number(clients: int, workers: int, limit: str) -> None:
    busy = utilisation(cell(clients, workers), cores=8)
    assert busy.limit == limit
    assert busy.most == "op1"
    assert busy.workers == pytest.approx(min(clients, workers) / workers, rel=0.03)


def test_busy_cores_come_before_workers_that_wait_for_them() -> None:
    assert utilisation(cell(8, 2, op1=1000, cpu=450), cores=2).limit == "workers"
    busy = utilisation(cell(8, 2, op1=1000, cpu=520), cores=2)
    assert busy.limit == "cores"
    assert busy.cores == pytest.approx(2 * 520 / 1100, rel=1e-6)


def test_the_one_thread_of_the_published_server_is_named() -> None:
    made = cell(8, 4, op1=1000, mode="flask-dev")
    made["request_rate"] = 0.95e6 / (1020 + 50)
    assert utilisation(made, cores=8).limit == "front"


def test_a_worker_process_reads_and_writes_beside_its_ops() -> None:
    """Its CPU time is the server's but the front's: more than the ops' time, which are a half of it."""
    made = cell(4, 1, op1=80, cpu=200) | {"worker_kind": "process", "front_cpu_us": 20.0, "server_cpu_us": 180.0}
    made["request_rate"] = 6000.0
    busy = utilisation(made, cores=8)
    assert (busy.limit, busy.most) == ("workers", "op1")
    assert busy.workers == pytest.approx(6000 * 160e-6)


def test_a_worker_is_busy_all_the_time_at_most() -> None:
    """The threads of its process that send and receive take CPU time beside it, and so do math threads."""
    made = cell(4, 1, op1=80) | {"worker_kind": "process", "front_cpu_us": 20.0, "server_cpu_us": 200.0}
    busy = utilisation(made | {"request_rate": 6000.0}, cores=8)
    assert (busy.limit, busy.workers) == ("workers", 1.0)
    with_math = utilisation(made | {"request_rate": 6000.0, "math_threads": 2}, cores=8)
    assert with_math.workers == pytest.approx(6000 * 100e-6)


def test_the_process_in_front_of_the_workers_is_named_when_its_core_is_busy() -> None:
    made = cell(16, 8, op1=200, cpu=400) | {"worker_kind": "process", "front_cpu_us": 120.0, "server_cpu_us": 340.0}
    made["request_rate"] = 8200.0
    busy = utilisation(made, cores=64)
    assert (busy.limit, busy.busiest) == ("front", "front")
    assert busy.front == pytest.approx(8200 * 120e-6)


def test_a_server_of_one_process_is_one_interpreter() -> None:
    """Its engine computes outside; the rest of its CPU time takes turns, however many threads there are."""
    made = cell(16, 8, op1=200, cpu=400) | {"worker_kind": "thread", "server_cpu_us": 320.0}
    made["request_rate"] = 8000.0
    busy = utilisation(made, cores=64)
    assert busy.limit == "front"
    assert busy.front == pytest.approx(8000 * 120e-6)
    assert utilisation(made | {"server_processes": 4, "front_cpu_us": 1.0}, cores=64).limit == "nothing"


def mean_value_analysis(demand_us: float, think_us: float, clients: int) -> tuple[float, float]:
    """Return requests per microsecond and the wait in one queue, exactly (Reiser and Lavenberg 1980)."""
    queue = rate = wait = 0.0
    for count in range(1, clients + 1):
        wait = demand_us * queue
        rate = count / (think_us + demand_us + wait)
        queue = rate * (demand_us + wait)
    return rate, wait


def test_requests_may_wait_for_a_worker_that_is_not_the_limit() -> None:
    rate, wait = mean_value_analysis(100, 300, 3)
    made = cell(3, 1, op1=80, cpu=100) | {"queue_us": wait, "request_rate": rate * 1e6}
    busy = utilisation(made, cores=8)
    assert wait > 0.3 * 100
    assert busy.workers == pytest.approx(0.65, abs=0.01)
    assert busy.limit == "nothing"
    assert busy.busiest == "workers"


def test_a_thread_worker_does_all_of_the_servers_work() -> None:
    made = cell(4, 1, op1=12, cpu=90) | {"worker_kind": "thread"}
    made["request_rate"] = 10_000.0
    busy = utilisation(made, cores=8)
    assert (busy.limit, busy.most) == ("workers", "transport")
    assert busy.workers == pytest.approx(0.9)


def test_nothing_busy_is_said() -> None:
    made = cell(8, 2)
    made["request_rate"] /= 2
    assert utilisation(made, cores=8).limit == "nothing"


def test_no_curve_is_above_its_bounds() -> None:
    curve = pd.DataFrame([cell(count, 4) for count in (1, 2, 3, 4, 6, 8)])
    found = bounds(curve, cores=8)
    assert found.alone_us == pytest.approx(5100)
    assert found.workers == pytest.approx(4e6 / 5020)
    assert found.cores == pytest.approx(8e6 / 200)
    for row in curve.itertuples():
        assert row.request_rate <= found.at(float(str(row.client_threads))) * 1.0001
    assert found.at(2) == found.clients(2)
    assert found.at(100) == found.workers


def test_what_waking_cores_costs_a_lone_client_is_no_bound_of_many() -> None:
    curve = pd.DataFrame([cell(1, 4)])
    assert bounds(curve, cores=8, wake_up_us=30).alone_us == pytest.approx(5040)
    assert bounds(curve, cores=8, wake_up_us=9000).alone_us == pytest.approx(5020), "no less than the ops take"


def law(counts: list[int], gamma: float = 1000.0, alpha: float = 0.05, beta: float = 0.002) -> dict[int, list[float]]:
    return {n: [gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1))] * 3 for n in counts}


COUNTS = [1, 2, 3, 4, 6, 8, 12]


def test_a_law_that_holds_is_found_again() -> None:
    found = usl.fit(law(COUNTS))
    assert isinstance(found, usl.Law)
    assert (found.gamma, found.alpha, found.beta) == pytest.approx((1000.0, 0.05, 0.002), rel=1e-6)
    assert found.fits
    assert found.residual < 1e-9
    assert found.peak == pytest.approx(math.sqrt(0.95 / 0.002))
    assert found.at(20) == pytest.approx(law([20])[20][0])


def test_noise_gives_intervals_that_hold_the_truth() -> None:
    generator = np.random.default_rng(2)
    noisy = {n: list(np.array(values) * generator.normal(1, 0.02, 3)) for n, values in law(COUNTS).items()}
    found = usl.fit(noisy)
    assert isinstance(found, usl.Law)
    assert found.alpha_interval is not None
    assert found.beta_interval is not None
    assert found.alpha_interval[0] <= 0.05 <= found.alpha_interval[1]
    assert found.beta_interval[0] <= 0.002 <= found.beta_interval[1]
    assert found == usl.fit(noisy)  # seeded


@pytest.mark.parametrize("rounds", [2, 3])
def test_intervals_of_few_rounds_hold_the_truth_in_nineteen_of_twenty(rounds: int) -> None:
    generator, held = np.random.default_rng(5), 0
    for _ in range(60):
        drift = generator.normal(1, 0.03, rounds)
        noisy = {n: list(values[0] * drift * generator.normal(1, 0.02, rounds)) for n, values in law(COUNTS).items()}
        found = usl.fit(noisy)
        assert isinstance(found, usl.Law)
        assert found.alpha_interval is not None
        held += found.alpha_interval[0] <= 0.05 <= found.alpha_interval[1]
    assert held >= 54


def test_one_round_has_no_interval_and_no_peak() -> None:
    found = usl.fit({n: values[:1] for n, values in law(COUNTS).items()})
    assert isinstance(found, usl.Law)
    assert (found.alpha_interval, found.beta_interval, found.peak) == (None, None, math.inf)


def test_a_peak_is_told_only_where_there_is_one() -> None:
    """Contention alone has none, whatever the noise makes of a coherency that is 0."""
    generator, told = np.random.default_rng(6), 0
    for _ in range(40):
        noisy = {n: list(values[0] * generator.normal(1, 0.03, 3)) for n, values in law(COUNTS, beta=0.0).items()}
        found = usl.fit(noisy)
        assert isinstance(found, usl.Law)
        told += found.peak < math.inf
    assert told <= 4


def test_coefficients_are_never_negative() -> None:
    """Faster than linear, as where a request alone waits for idle cores to wake."""
    found = usl.fit({n: [1000.0 * n**1.2] for n in COUNTS})
    assert isinstance(found, usl.Law)
    assert (found.alpha, found.beta) == (0.0, 0.0)
    assert found.peak == math.inf
    assert not found.fits


def test_too_few_counts_are_refused() -> None:
    assert usl.fit(law([1, 2, 4, 8])) == "4 client counts are measured, the law needs 6"


def test_nothing_is_told_far_out_or_where_the_law_does_not_fit() -> None:
    found = usl.fit(law(COUNTS))
    assert isinstance(found, usl.Law)
    with pytest.raises(ValueError, match="25 clients are more than twice the 12"):
        found.at(25)
    broken = usl.fit({n: [1000.0 * (1 + n % 2)] for n in COUNTS})
    assert isinstance(broken, usl.Law)
    with pytest.raises(ValueError, match="the law does not fit: a residual of"):
        broken.at(4)
