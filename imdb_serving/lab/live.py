"""Live statistics: what the clients measure now, and measured in the last half minute. Draws nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import NamedTuple

from imdb_serving.analysis import summary
from imdb_serving.cell import CLOSED
from imdb_serving.lab.testbed import Stretch
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.measurement.machine import allowed

HISTORY_SECONDS = 30.0
NOW_SECONDS = 2.0
"""What a number tells of: long enough for a p95 of a hundred requests a second, short enough to follow a hand."""


class Now(NamedTuple):
    """The live numbers. Latencies in milliseconds are None where too few requests stand behind.

    `throughput` in reviews a second, `stages_us` a request's mean time in each, in order; `queue` is how many requests
    wait for a worker on average (Little's law); `server` and `clients` are shares of all `cores`.
    """

    throughput: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    stages_us: Mapping[str, float]
    queue: float
    server: float
    clients: float
    cores: int
    failures: int
    requests: int
    why: str = ""


class Point(NamedTuple):
    """One stretch in the history: seconds before now, reviews a second, p95 (else the median) in milliseconds."""

    age_s: float
    throughput: float
    latency_ms: float | None


class LiveStatistics:
    """The last half minute of stretches."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, Stretch]] = deque()
        self._history: deque[Point] = deque()  # of these, `age_s` is the moment itself

    def add(self, stretch: Stretch) -> None:
        """Take a stretch that has just ended."""
        now = monotonic()
        if self._recent and self._recent[-1][1].settings != stretch.settings:
            self._recent.clear()
        self._recent.append((now, stretch))
        while now - self._recent[0][0] > NOW_SECONDS:
            self._recent.popleft()
        seen = numbers([stretch])
        self._history.append(Point(now, seen.throughput, seen.p95_ms or seen.p50_ms))
        while now - self._history[0].age_s > HISTORY_SECONDS:
            self._history.popleft()

    def now(self) -> Now | None:
        """Return the numbers of the last two seconds under the present settings; None before the first."""
        return numbers([stretch for _, stretch in self._recent]) if self._recent else None

    def history(self) -> list[Point]:
        """Return the last half minute, the oldest first."""
        now = monotonic()
        return [point._replace(age_s=now - point.age_s) for point in self._history]

    def clear(self) -> None:
        """Forget what was: another server is not the same curve."""
        self._recent.clear()


def numbers(stretches: Sequence[Stretch]) -> Now:
    """Return the numbers of stretches under the same settings."""
    settings = stretches[0].settings
    records = [record for stretch in stretches for record in stretch.records]
    failures = [failure for record in records for failure in record.failures]
    requests = sum(len(record.positions) for record in records)
    rate = request_rate(stretches)
    latency = _latency(records, settings.arrivals == CLOSED) if requests else {}
    means = summary.stage_means(records)
    stages = ("prepro", *summary.stage_names(records), "postpro")
    seconds, cores = sum(stretch.usage.seconds for stretch in stretches) or 1.0, len(allowed())
    return Now(
        throughput=rate * settings.batch,
        p50_ms=latency.get("p50_us"),
        p95_ms=latency.get("p95_us"),
        p99_ms=latency.get("p99_us"),
        stages_us={name: means.get(name, 0.0) for name in stages} if requests else {},
        queue=rate * means.get("queue", 0.0) / 1e6,
        server=sum(stretch.usage.server_s for stretch in stretches) / seconds / cores,
        clients=sum(stretch.usage.client_s for stretch in stretches) / seconds / cores,
        cores=cores,
        failures=len(failures),
        requests=requests,
        why=failures[0].message if failures else "",
    )


def request_rate(stretches: Sequence[Stretch]) -> float:
    """Return the requests per second answered while all clients were sending."""
    rates = [
        summary.closed_loop(stretch.records)
        if stretch.settings.arrivals == CLOSED
        else summary.open_loop(stretch.records, stretch.settings.rate)
        for stretch in stretches
    ]
    return summary.over_blocks(rates).get("request_rate", 0.0)


def _latency(records: Sequence[ClientRecord], closed: bool) -> dict[str, float | None]:
    found = summary.latency(records) if closed else summary.open_latency(records)
    return {name: value / 1000 if value is not None else None for name, value in found.items()}
