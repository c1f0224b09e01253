"""Bodies that arrive side by side take their own size of memory and no more: they leave no holes in the heap."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
from pathlib import Path
from imdb_serving.server.http.parsing import RequestParser

MIB = 1 << 20

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if name in line)

bytes(31 * MIB)  # freed at once: from now on the C library takes as much from its heap
parsers = [RequestParser(16 * MIB) for _ in range(4)]
for parser in parsers:
    parser.feed(b"POST /x HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: %d\\r\\n\\r\\n" % (16 * MIB))
before = status("VmRSS")
for _ in range(256 - 1):
    for parser in parsers:
        parser.feed(b" " * (MIB // 16))
print(status("VmRSS") - before)
for parser in parsers:
    parser.feed(b" " * (MIB // 16))
    assert parser.requests[0].body == b" " * (16 * MIB)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_bodies_that_grow_side_by_side_leave_no_holes() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, timeout=60)
    assert float(done.stdout) < 4 * 16 * 1.1
