"""Metrics for Prometheus on a port of their own: counted where things happen, collected when they are asked for.

The only server file that imports prometheus_client. Stages are sampled: at most `SAMPLE` requests every half second.
"""

from __future__ import annotations

import functools
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from imdb_serving.errors import ServerStartError
from imdb_serving.messages import ServerInfo
from imdb_serving.server.http.service import HttpServer, HttpService
from imdb_serving.server.server import Server
from imdb_serving.server.workers.carrier import decode_stages

SAMPLE = 1024
INFO_FIELDS = ("version", "engine", "net", "worker_kind", "protocol")
FOLD_SECONDS = 0.5
CLOSE_SECONDS = 2.0
BUCKETS = (
    5e-6,
    1e-5,
    2.5e-5,
    5e-5,
    1e-4,
    2.5e-4,
    5e-4,
    1e-3,
    2.5e-3,
    5e-3,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    10,
)
"""Upper bounds in seconds: from the shortest stages to the longest waits."""


class StageTimes:
    """Histograms of stages, from what workers tell of the requests that they answer."""

    def __init__(self) -> None:
        self.observed: deque[bytes] = deque(maxlen=SAMPLE)
        self._counts: dict[str, list[int]] = {}
        self._sums: Counter[str] = Counter()
        self._lock = threading.Lock()

    def fold(self) -> None:
        """Count what was left since the last time."""
        with self._lock:
            while self.observed:
                with suppress(IndexError):
                    for stage in decode_stages(self.observed.popleft()):
                        seconds = (stage.end_ns - stage.start_ns) / 1e9
                        counts = self._counts.setdefault(stage.name, [0] * (len(BUCKETS) + 1))
                        counts[bisect_left(BUCKETS, seconds)] += 1
                        self._sums[stage.name] += seconds  # type: ignore[assignment] # Counters add floats as well

    def family(self) -> HistogramMetricFamily:
        """Return the histograms."""
        self.fold()
        family = HistogramMetricFamily(
            "imdb_serving_stage_seconds",
            "Seconds of each stage, of a sample of the answered requests",
            labels=["stage"],
        )
        with self._lock:
            for name, counts in self._counts.items():
                total, buckets = 0, []
                for bound, count in zip([*map(repr, BUCKETS), "+Inf"], counts, strict=True):
                    total += count
                    buckets.append((bound, total))
                family.add_metric([name], buckets, self._sums[name])
        return family


class ServerCollector(Collector):
    """Collects what a server has counted."""

    def __init__(self, server: Server, times: StageTimes, *, has_workers: bool) -> None:
        """Take it; a gateway has no workers of its own to tell of."""
        self._server, self._times, self._has_workers = server, times, has_workers
        self._info = server.info

    def collect(self) -> Iterator[Any]:
        """Yield all families; called at each scrape."""
        server, counts = self._server, self._server.dropped()
        info = {name: str(getattr(self._info, name)) for name in INFO_FIELDS}
        yield InfoMetricFamily("imdb_serving", "What is served", value=info)
        yield _counters("imdb_serving_requests", "Requests by how they ended", "outcome", server.outcomes())
        dropped = {why: counts[why] for why in ("refused", "shed", "late", "abandoned")}
        yield _counters("imdb_serving_dropped", "Requests that no worker saw, by why", "why", dropped)
        yield GaugeMetricFamily("imdb_serving_requests_waiting", "Requests in the queue", value=len(server.queue))
        yield GaugeMetricFamily("imdb_serving_requests_at_work", "Requests at work", value=server.live.at_work())
        if self._has_workers:
            yield from self._workers()
        yield self._times.family()
        yield self._memory()

    def _workers(self) -> Iterator[Any]:
        units = self._server.units
        states = {"wanted": units.workers, "ready": units.ready_workers(), "given_up": len(units.given_up)}
        family = GaugeMetricFamily("imdb_serving_workers", "Workers by state", labels=["state"])
        for state, count in states.items():
            family.add_metric([state], count)
        yield family
        yield CounterMetricFamily("imdb_serving_worker_restarts", "Workers that were replaced", value=units.replaced)
        yield CounterMetricFamily(
            "imdb_serving_asked_again",
            "Requests given to another worker because theirs had died",
            value=self._server.dispatcher.asked_again,
        )

    def _memory(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily("imdb_serving_memory_bytes", "Resident memory", labels=["process"])
        pids = {"server": self._info.pid, **self._server.units.pids()}
        for name, pid in pids.items():
            with suppress(psutil.Error):
                family.add_metric([name], psutil.Process(pid).memory_info().rss)
        return family


def _counters(name: str, what: str, label: str, counts: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, what, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


class _MetricsApp:
    """The metrics as `HttpServer` takes an application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answer: Any = make_wsgi_app(registry)
        self.config: Any = {}

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Any:
        return self._answer(environ, start_response)


class MetricsPort:
    """Tells it over HTTP, at `/metrics` of a port, until closed: on our own web server, whose limits hold here too."""

    def __init__(
        self, host: str, port: int, collector: Iterable[Collector], times: StageTimes, info: ServerInfo
    ) -> None:
        """Listen; raise `ServerStartError` when the port cannot be had."""
        registry = CollectorRegistry()
        for each in collector:
            registry.register(each)
        try:
            service = HttpService(host, port, 0, lambda _: _MetricsApp(registry))
        except ServerStartError as error:
            raise ServerStartError(f"cannot serve metrics on {host}:{port}: {error}") from error
        self._server = HttpServer(service, 1, 0, info)
        self._server.set_handler(functools.partial(_MetricsApp, registry))
        self.url = f"{self._server.url}/metrics"
        run = functools.partial(self._server.run, lambda _: None)
        self._thread = threading.Thread(target=run, name="metrics-port", daemon=True)
        self._thread.start()
        self._over = threading.Event()
        threading.Thread(target=self._fold, args=(times,), name="metrics", daemon=True).start()

    def _fold(self, times: StageTimes) -> None:
        while not self._over.wait(FOLD_SECONDS):
            times.fold()

    def close(self) -> None:
        """Stop listening."""
        self._over.set()
        self._server.stop()
        self._thread.join(CLOSE_SECONDS)
