"""MLPerf's LoadGen in front of our clients: its summary is read, failures are counted, a missing package is told."""

from __future__ import annotations

import functools
import multiprocessing
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
from live import SIMULATED, served
from loads import lines_of, shares_of

from imdb_serving.cli.slo import run_mlperf
from imdb_serving.clients.connect import connect
from imdb_serving.errors import ConfigError
from imdb_serving.load import mlperf
from imdb_serving.server_process import ServerProcess

SUMMARY = """
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 246.10
Result is : VALID
50.00 percentile latency (ns)   : 5896000
99.00 percentile latency (ns)   : 16184000
"""


def test_its_summary_is_read() -> None:
    read = mlperf._read("Server", SUMMARY, 2)
    assert (read.valid, read.rate, read.p50_us, read.p99_us, read.failed) == (True, 246.1, 5896.0, 16184.0, 2)
    assert mlperf._read("Server", SUMMARY.replace("VALID", "INVALID"), 0).valid is False
    assert mlperf._read("Offline", "Samples per second: 12.5\n", 0).rate == 12.5


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(ConfigError, match=r"pip install 'imdb-serving\[loadgen\]'"):
        mlperf.run_loadgen("Server", lambda: None, shares_of(lines_of(1), 1)[0], 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("scenario", "rate"), [("Server", None), ("Offline", 5.0), ("SingleStream", 5.0)])
def test_a_rate_belongs_to_the_server_scenario(scenario: str, rate: float | None) -> None:
    with pytest.raises(ConfigError, match="the scenario Server, and no other, needs --rate"):
        run_mlperf(scenario=scenario, rate=rate, clients=1, seconds=1.0, model=None)


PAIRS, RATE, SECONDS = 5, 250.0, 20.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_p99_and_our_open_loops_agree_within_five_percent() -> None:
    """Four workers of 5 ms at 250/s: chance alone moves the p99 of 5,000 requests by 2 %, the mean of five by 1 %."""
    pytest.importorskip("mlperf_loadgen", reason="the extra `loadgen` is not installed")
    count = int(RATE * SECONDS)
    ratios = []
    # Ours are processes of their own; so is its, or whatever traces this one would slow it alone.
    apart = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with served("rpc", SIMULATED, 4, 8) as measured, apart:
        workload = shares_of(lines_of(100), 1)[0]
        for number in range(PAIRS):
            theirs = apart.submit(
                mlperf.run_loadgen, "Server", measured.connect, workload, 8, rate=RATE, seconds=SECONDS, seed=number + 1
            ).result()
            ours = measured(number, client_threads=8, samples=count, arrivals="poisson", rate=RATE)
            assert theirs.failed == 0
            assert ours.error == ""
            assert theirs.p99_us is not None
            assert ours.figures.p99_us is not None
            ratios.append((ours.figures.p99_us, theirs.p99_us))
    mine, its = (statistics.mean(values) for values in zip(*ratios, strict=True))
    assert mine / its == pytest.approx(1, abs=0.05), ratios


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "rate"), [("SingleStream", 0.0), ("Server", 100.0), ("Offline", 0.0)])
def test_each_scenario_drives_our_rpc_client(scenario: str, rate: float) -> None:
    pytest.importorskip("mlperf_loadgen", reason="the extra `loadgen` is not installed")
    arguments = ["--engine", "simulated", "--service-time-ms", "5", "--server-threads", "2"]
    workload = shares_of(lines_of(100), 1)[0]
    with ServerProcess(arguments) as server:
        target = functools.partial(connect, server.endpoint)
        found = mlperf.run_loadgen(scenario, target, workload, 4, rate=rate, seconds=2.0)
    assert found.failed == 0
    assert found.p50_us is None or found.p50_us >= 5000
    assert found.rate <= 400
    assert "MLPerf Results Summary" in found.summary
