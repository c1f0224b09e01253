"""Our load generator beside wrk and hey, where the server limits: it sees the same rate and the same tail. Slow.

Both are Debian packages. Where the machine's cores limit, what clients cost shows in the rate: that is printed, and not
judged.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import http_kit as http
import numpy as np
import pytest

from imdb_serving.analysis.intervals import estimate
from imdb_serving.analysis.summary import closed_loop, column
from imdb_serving.foreign.client import Call, ForeignClient
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.load.closed_loop import Share
from imdb_serving.load.workload import PreparedWorkload

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]

BODY = json.dumps({"words": list(range(1, 121)), "fetch": ["prediction"]}).encode()
SECONDS = 4
ROUNDS = 5
CLOSE = 0.05
SERVICE_SECONDS = 0.005
OF_IDEAL = 0.85
"""From this share of what sleeping workers could answer at most they are the limit, and not the cores."""


class Seen(NamedTuple):
    """Requests/s, and the 99th percentile in ms."""

    rate: float
    p99: float


def by_wrk(url: str, connections: int, folder: Path) -> Seen:
    script = folder / "post.lua"
    script.write_text(
        f"wrk.method = 'POST'; wrk.body = '{BODY.decode()}'; wrk.headers['Content-Type'] = 'application/json'\n"
        "function done(summary, latency) io.write(string.format('p99 %d\\n', latency:percentile(99))) end\n"
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "Non-2xx" not in said, said
    rate, p99 = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"^p99 (\d+)", said, re.MULTILINE)
    assert rate is not None, said
    assert p99 is not None, said
    return Seen(float(rate[1]), int(p99[1]) / 1000)


def by_hey(url: str, connections: int, folder: Path) -> Seen:
    (folder / "body.json").write_bytes(BODY)
    command = ["hey", "-z", f"{SECONDS}s", "-c", str(connections), "-m", "POST", "-T", "application/json", "-o", "csv"]
    command += ["-D", str(folder / "body.json"), url]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    rows = list(csv.DictReader(io.StringIO(said)))
    assert {row["status-code"] for row in rows} == {"200"}
    times = np.array([float(row["response-time"]) for row in rows])
    ends = np.array([float(row["offset"]) for row in rows]) + times
    return Seen(len(rows) / float(ends.max()), float(np.percentile(times, 99)) * 1000)


def by_us(url: str, connections: int, _folder: Path, body: bytes = BODY, answer: str = "prediction[1]") -> Seen:
    parts = urlsplit(url)
    call = Call(f"http://{parts.netloc}", parts.path, answer=answer)
    workload = PreparedWorkload([body] * 1000, [1] * 1000)
    share = Share(workload, 1_000_000, seconds=SECONDS)
    with LoadSession({"": partial(ForeignClient, call, 5.0)}, connections, 5.0) as session:
        records = session.run("", [share] * connections)
    assert not any(record.failures for record in records)
    times = column(records, "client_infer") / 1e6
    return Seen(closed_loop(records)["request_rate"], float(np.percentile(times, 99)))


OTHERS: dict[str, Callable[[str, int, Path], Seen]] = {"wrk": by_wrk, "hey": by_hey}


@pytest.mark.parametrize("connections", [1, 8, 32])
@pytest.mark.parametrize("other", OTHERS)
def test_both_see_the_same_where_the_server_limits(other: str, connections: int, tmp_path: Path) -> None:
    if shutil.which(other) is None:
        pytest.skip(f"{other} is not installed")
    arguments = [
        "--engine",
        "simulated",
        "--service-time-ms",
        f"{SERVICE_SECONDS * 1000:g}",
        "--server-threads",
        str(connections),
    ]
    with http.server(*arguments) as server:
        url = server.endpoint + http.PREDICTION
        pairs = [(by_us(url, connections, tmp_path), OTHERS[other](url, connections, tmp_path)) for _ in range(ROUNDS)]
    limits = statistics.median(theirs.rate for _, theirs in pairs) >= OF_IDEAL * connections / SERVICE_SECONDS
    for name in Seen._fields:
        ratio = estimate([math.log(getattr(ours, name) / getattr(theirs, name)) for ours, theirs in pairs])
        own, its = (statistics.median(getattr(seen[who], name) for seen in pairs) for who in (0, 1))
        low, middle, high = map(math.exp, (ratio.low, ratio.mean, ratio.high))
        print(
            f"\n{connections} connections, {name}: {own:,.2f}, {other} {its:,.2f}, {middle:.3f} ({low:.3f}, {high:.3f})"
        )
        if limits:
            assert high >= 1 - CLOSE, "ours is shown to be less by more than that"
            assert low <= 1 + CLOSE, "ours is shown to be more by more than that"


PERF_ANALYZER = os.environ.get("PERF_ANALYZER", "perf_analyzer")
"""NVIDIA's; the wheel `tritonclient` 2.51.0 has one (docs/servers.md)."""

INFER = "/v2/models/simulated/infer"
OIP_BODY = json.dumps({
    "inputs": [{"name": "words", "datatype": "INT64", "shape": [1, 120], "data": [0] * 120}],
    "outputs": [{"name": "prediction"}, {"name": "class"}],
}).encode()  # fmt: skip


def by_perf_analyzer(url: str, folder: Path, *load: str) -> Seen:
    """What it reports of our service, which it asks by the Open Inference Protocol, with binary tensors."""
    out = folder / "perf.csv"
    command = [
        PERF_ANALYZER,
        "-m",
        "simulated",
        "-u",
        url.removeprefix("http://"),
        "--shape",
        "words:120",
        "--input-data",
        "zero",
        "-b",
        "1",
        "-f",
        str(out),
        "--measurement-interval",
        str(SECONDS * 1000),
        "-s",
        "30",
        *load,
    ]
    subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    (row,) = csv.DictReader(io.StringIO(out.read_text()))
    return Seen(float(row["Inferences/Second"]), float(row["p99 latency"]) / 1000)


needs_perf_analyzer = pytest.mark.skipif(shutil.which(PERF_ANALYZER) is None, reason="PERF_ANALYZER names no program")


@needs_perf_analyzer
@pytest.mark.parametrize("connections", [1, 2, 4, 8])
def test_perf_analyzer_sees_the_throughput_that_we_see(connections: int, tmp_path: Path) -> None:
    arguments = ["--engine", "simulated", "--service-time-ms", f"{SERVICE_SECONDS * 1000:g}"]
    with http.server(*arguments, "--server-threads", str(connections)) as server:
        pairs = [
            (
                by_us(server.endpoint + INFER, connections, tmp_path, OIP_BODY, "outputs[0].data[1]"),
                by_perf_analyzer(server.endpoint, tmp_path, "--concurrency-range", str(connections)),
            )
            for _ in range(ROUNDS)
        ]
    ratio = estimate([math.log(ours.rate / theirs.rate) for ours, theirs in pairs])
    low, middle, high = map(math.exp, (ratio.low, ratio.mean, ratio.high))
    own, its = (statistics.median(seen[who].rate for seen in pairs) for who in (0, 1))
    print(f"\n{connections} connections: {own:,.1f}, perf_analyzer {its:,.1f}, {middle:.3f} ({low:.3f}, {high:.3f})")
    assert high >= 1 - CLOSE, "ours is shown to be less by more than that"
    assert low <= 1 + CLOSE, "ours is shown to be more by more than that"


@needs_perf_analyzer
@pytest.mark.parametrize("rate", [100, 400])
def test_perf_analyzer_offers_a_rate_and_gets_it(rate: int, tmp_path: Path) -> None:
    arguments = ["--engine", "simulated", "--service-time-ms", f"{SERVICE_SECONDS * 1000:g}", "--server-threads", "8"]
    with http.server(*arguments) as server:
        seen = by_perf_analyzer(server.endpoint, tmp_path, "--request-rate-range", str(rate))
    print(f"\noffered {rate} requests/s, answered {seen.rate:,.1f}, p99 {seen.p99:.1f} ms")
    assert seen.rate == pytest.approx(rate, rel=CLOSE)
