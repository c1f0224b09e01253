"""Whose CPU time it was: the process in front of the workers is told apart from them."""

from __future__ import annotations

import subprocess
import sys

from imdb_serving.measurement.cpu_meter import CpuMeter

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
sys.stdout.write(child.stdout.readline().decode()); sys.stdout.flush()
sys.stdin.readline()
"""
CHILD = """
import sys, time
while time.process_time() < 1.0: pass
print("done", flush=True)
sys.stdin.readline()
"""


def test_the_front_is_told_apart_from_its_workers() -> None:
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        meter = CpuMeter([parent.pid], [])
        parent.stdout.readline()
        usage = meter.read()
        parent.communicate(b"\n", timeout=20)
    assert usage.server_s > 0.5
    assert usage.front_s < 0.5 * usage.server_s
