"""Whose CPU time it was: the process in front of the workers is told apart from them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from waiting import wait_until

from imdb_serving.foreign.process import CommandProcess
from imdb_serving.measurement.cpu_meter import CpuMeter, process_tree, watching

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


@contextmanager
def parent_of(*code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has started others, or is about to; it ends behind the block."""
    with subprocess.Popen([sys.executable, "-c", *code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        yield parent
        parent.communicate(b"\n", timeout=20)


def ready(parent: subprocess.Popen[bytes]) -> None:
    assert parent.stdout is not None
    parent.stdout.readline()


def test_the_front_is_told_apart_from_its_workers() -> None:
    with parent_of(PARENT, CHILD) as parent:
        meter = CpuMeter([parent.pid], [])
        ready(parent)
        usage = meter.read()
    assert usage.server_s > 0.5
    assert usage.front_s < 0.5 * usage.server_s


FAMILY = """
import subprocess, sys, threading
more = [sys.executable, "-c", sys.argv[1]]
one = subprocess.Popen(more, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
others = []
def begin():  # a child belongs to the thread that began it, until that ends
    others.append(subprocess.Popen(more, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    others[0].stdout.readline()
    print("ready", flush=True)
    sys.stdin.readline()
one.stdout.readline()
thread = threading.Thread(target=begin)
thread.start()
thread.join()
"""
MEMBER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
print("ready", flush=True)
sys.stdin.readline()
"""


def test_a_tree_has_the_children_of_every_thread_and_theirs() -> None:
    with parent_of(FAMILY, MEMBER) as parent:
        ready(parent)
        found = process_tree([parent.pid])
        wanted = psutil.Process(parent.pid).children(recursive=True)
    assert found[0].pid == parent.pid
    assert len(found) == 5
    assert set(found[1:]) == set(wanted)
    assert process_tree([parent.pid]) == []


def test_a_guards_memory_is_not_the_servers(tmp_path: Path) -> None:
    command = f'{sys.executable} -c "x = bytes(80 << 20); print(flush=True); import time; time.sleep(60)"'
    with CommandProcess(command, tmp_path / "out.log") as server:
        assert wait_until((tmp_path / "out.log").read_bytes)
        with watching([server.pid], []) as whole, watching([server.pid], [], is_guarded=True) as own:
            pass
    assert whole.memory_mib is not None
    assert own.memory_mib is not None
    assert whole.memory_mib > own.memory_mib > 0
