"""Locks of a folder: one holder at a time, and a holder that is killed holds nothing any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imdb_serving.errors import DataError
from imdb_serving.measurement.ledger import exclusive

HOLD = """
import sys, time
from pathlib import Path
from imdb_serving.measurement.ledger import exclusive
with exclusive(Path(sys.argv[1]), "x", 0.0, "this"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_free_again_behind_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with exclusive(tmp_path / "new", "x", 0.0, "nothing"):
            pass


def test_another_process_is_waited_for_and_named_and_gone_when_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(DataError, match="another sweep is at work in"),
            exclusive(tmp_path, "x", 0.3, "another sweep"),
        ):
            pass
        with exclusive(tmp_path, "y", 0.0, "another"):  # of another name
            pass
        os.kill(holder.pid, signal.SIGKILL)
        with exclusive(tmp_path, "x", 30.0, "another sweep"):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
