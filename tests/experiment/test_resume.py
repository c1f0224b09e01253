"""A sweep that is killed at random moments and started again: no row is lost, none is there twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from imdb_serving.measurement.ledger import Ledger, read_samples

SWEEP = """
mode: [rpc, flask]
engine: "none"
server_threads: [1, 2]
client_threads: [1, 2]
samples: 60
rounds: 2
extra_rounds: 0
"""
CELLS = (2 * 2 + 1) * 2 * 2
"""Two modes of two server counts and the A/A pair, two client counts, two rounds."""

KILLS, MOST_ROWS, WAIT_SECONDS = 6, 4, 120.0
"""Each kill comes up to three seconds after so many new rows: a fast machine is struck as often as a slow one."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_killed_at_random_moments_resumes_with_no_row_lost_or_doubled(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SWEEP, encoding="utf-8")
    ledger = Ledger(tmp_path / "out" / "small")
    moments = random.Random(2020)
    seen: set[tuple[str, str, int]] = set()
    struck = 0
    for number in range(KILLS):
        sweep = started(file, tmp_path / "out")
        wanted, deadline = len(seen) + moments.randint(0, MOST_ROWS), time.monotonic() + WAIT_SECONDS
        while len(places(ledger)) < wanted and sweep.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 3))
        struck += sweep.poll() is None
        kill(sweep, whole=number % 2 == 0)
        now = set(places(ledger))
        assert seen <= now, "a row that was written is gone"
        seen = now
    assert struck >= KILLS / 2, "the sweep was over before it could be killed"
    last = started(file, tmp_path / "out")
    said, _ = last.communicate(timeout=600)
    assert last.returncode == 0, said[-2000:]
    counted = Counter(places(ledger))
    assert len({run for run, _, _ in counted}) == 1
    assert len(counted) == CELLS
    assert set(counted.values()) == {1}
    for row in ledger.rows():
        assert row.status != "failed"
        assert len(read_samples(ledger.folder, row.raw)) == row.requests


def started(file: Path, outputs: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "imdb_serving", "sweep", str(file), "--outputs", str(outputs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill(sweep: subprocess.Popen[str], *, whole: bool) -> None:
    """Kill the sweep alone, as an impatient user does, or all that it started with it, as a power cut does."""
    family = psutil.Process(sweep.pid).children(recursive=True) if whole and sweep.poll() is None else []
    sweep.kill()
    for process in family:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    assert sweep.stdout is not None
    sweep.stdout.close()
    sweep.wait(30)


def places(ledger: Ledger) -> list[tuple[str, str, int]]:
    """Return run, key and round of every whole line, twice where it is there twice."""
    found = []
    for line in ledger.path.read_bytes().split(b"\n") if ledger.path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # cut short by a kill, or empty
        if row["cell"]["series"] in {"grid", "twin"}:
            found.append((row["run"], row["key"], row["round"]))
    return found
