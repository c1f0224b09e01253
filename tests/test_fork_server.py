"""The fork server's folder is gone when the process that started it is, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from waiting import wait_until

DYING_SLOWLY = """
import multiprocessing, os, signal, time
from multiprocessing import forkserver
from imdb_serving import processes

processes.prepare_fork_server()
multiprocessing.set_forkserver_preload(["imdb_serving.processes"])
one = multiprocessing.get_context("forkserver").Process(target=print)
one.start()
one.join()
os.close(forkserver._forkserver._forkserver_alive_fd)
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_closes_its_files_before_it_is_gone_leaves_no_folder() -> None:
    with tempfile.TemporaryDirectory(prefix="t") as folder:  # a short name, for sockets, and nobody else's
        done = subprocess.run(
            [sys.executable, "-c", DYING_SLOWLY], env={**os.environ, "TMPDIR": folder}, timeout=60, check=False
        )
        assert done.returncode == -signal.SIGKILL
        assert wait_until(lambda: not list(Path(folder).iterdir()), 20), list(Path(folder).iterdir())
