"""Our load generator beside wrk and hey, where the server limits: it sees the same rate and the same tail. Slow.

Both are Debian packages. Where the machine's cores limit, what clients cost shows in the rate: that is printed, and not
judged.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

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


def by_us(url: str, connections: int, _folder: Path) -> Seen:
    call = Call(url.removesuffix(http.PREDICTION), http.PREDICTION, answer="prediction[1]")
    workload = PreparedWorkload([BODY] * 1000, [1] * 1000)
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
