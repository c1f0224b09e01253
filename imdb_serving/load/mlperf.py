"""MLPerf's LoadGen driving our clients: an independent load generator to check our own against."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from imdb_serving.errors import ConfigError, ServingError
from imdb_serving.load.client_processes import Connect
from imdb_serving.load.closed_loop import Workload
from imdb_serving.packages import install
from imdb_serving.processes import temporary_folder

SCENARIOS = ("SingleStream", "Server", "Offline")
SUMMARY = "mlperf_log_summary.txt"
JOIN_SECONDS = 30.0


class Outcome(NamedTuple):
    """What LoadGen says of a run: its own verdict, the rate it saw, percentiles in microseconds, all of its summary.

    `rate` is in queries a second, in samples where all came at once. `failed` are queries that got no answer; LoadGen
    must be told something of each, so they count as answered there, and a run with any is worth nothing.
    """

    scenario: str
    valid: bool
    rate: float
    p50_us: float | None
    p99_us: float | None
    failed: int
    summary: str


def run_loadgen(
    scenario: str,
    connect: Connect,
    workload: Workload,
    clients: int,
    *,
    rate: float = 0.0,
    seconds: float = 10.0,
    seed: int = 0,
) -> Outcome:
    """Have LoadGen issue a workload's requests to clients for some seconds; `rate` is for Server (Poisson arrivals).

    `seed` draws the order of requests and Server's times.

    Raises `ConfigError` when LoadGen is not installed or the scenario is none of `SCENARIOS`.
    """
    loadgen = _loadgen()
    if scenario not in SCENARIOS:
        raise ConfigError(f"there is no scenario {scenario!r}; expected {', '.join(SCENARIOS)}")
    with (
        temporary_folder() as place,
        _answering(loadgen, connect, workload, clients) as loader,
    ):
        settings, logs = _settings(loadgen, scenario, rate, seconds, len(workload)), _logs(loadgen, place)
        settings.schedule_rng_seed = settings.sample_index_rng_seed = settings.qsl_rng_seed = seed
        sut = loadgen.ConstructSUT(loader.issue, lambda: None)
        library = loadgen.ConstructQSL(len(workload), len(workload), lambda _: None, lambda _: None)
        try:
            loadgen.StartTestWithLogSettings(sut, library, settings, logs)
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(sut)
        summary = (Path(place) / SUMMARY).read_text(encoding="utf-8")
    return _read(scenario, summary, loader.failed)


def _loadgen() -> Any:
    try:
        import mlperf_loadgen  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(f"MLPerf's LoadGen is missing: {install('mlperf_loadgen')}") from error
    return mlperf_loadgen


class _LoadThreads:
    """Threads that each hold a client and answer what LoadGen issues, in its order."""

    def __init__(self, loadgen: Any, connect: Connect, workload: Workload, clients: int) -> None:
        self._loadgen, self._workload = loadgen, workload
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self.failed = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(connect,), daemon=True) for _ in range(clients)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def issue(self, samples: Sequence[Any]) -> None:
        """Take what LoadGen issues; called from a thread of its own, which must not wait."""
        for sample in samples:
            self._queue.put((sample.id, sample.index))

    def stop(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _work(self, connect: Connect) -> None:
        with connect() as client:
            while (taken := self._queue.get()) is not None:
                number, position = taken
                try:
                    self._workload.finish(position, client.call(self._workload.prepare(position)))
                except ServingError:
                    with self._lock:
                        self.failed += 1
                self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(number, 0, 0)])


@contextmanager
def _answering(loadgen: Any, connect: Connect, workload: Workload, clients: int) -> Iterator[_LoadThreads]:
    loader = _LoadThreads(loadgen, connect, workload, clients)
    loader.start()
    try:
        yield loader
    finally:
        loader.stop()


def _settings(loadgen: Any, scenario: str, rate: float, seconds: float, samples: int) -> Any:
    """Return LoadGen's settings: performance only, as long as asked, with as many queries as that makes."""
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(seconds * 1000)
    settings.min_query_count = 1
    if scenario == "Server":
        settings.server_target_qps = rate
        settings.server_target_latency_ns = 10**12  # what it is, not whether it is enough
        settings.min_query_count = max(1, int(rate * seconds))
    elif scenario == "Offline":
        settings.offline_expected_qps = max(samples / seconds, 1.0)
    return settings


def _logs(loadgen: Any, place: str) -> Any:
    logs = loadgen.LogSettings()
    logs.log_output.outdir = place
    logs.log_output.copy_summary_to_stdout = False
    logs.enable_trace = False
    return logs


def _read(scenario: str, summary: str, failed: int) -> Outcome:
    """Read LoadGen's summary, lines of `name : value`."""
    values = dict(re.findall(r"^\s*(.+?)\s*:\s*(\S+)", summary, re.MULTILINE))
    rate = next((float(values[name]) for name in RATES if name in values), 0.0)
    p50, p99 = (float(values[name]) / 1000 if name in values else None for name in _PERCENTILES)
    return Outcome(scenario, values.get("Result is") == "VALID", rate, p50, p99, failed, summary)


RATES = ("Completed samples per second", "Samples per second", "QPS w/o loadgen overhead")
_PERCENTILES = ("50.00 percentile latency (ns)", "99.00 percentile latency (ns)")
