"""The fork server's folder is gone when the process that started it is, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import rpc_kit as kit

DYING_SLOWLY = """
import multiprocessing, os, signal, time
from multiprocessing import forkserver
from imdb_serving.workers import fork_server

fork_server.prepare()
multiprocessing.set_forkserver_preload(["imdb_serving.workers.fork_server"])
one = multiprocessing.get_context("forkserver").Process(target=print)
one.start()
one.join()
os.close(forkserver._forkserver._forkserver_alive_fd)
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_closes_its_files_before_it_is_gone_leaves_no_folder(tmp_path: Path) -> None:
    temporary = tmp_path if len(str(tmp_path)) < 60 else Path("/tmp")
    before = set(temporary.glob("imdb-serving-fork-*"))
    done = subprocess.run(
        [sys.executable, "-c", DYING_SLOWLY], env={**os.environ, "TMPDIR": str(temporary)}, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert kit.wait_until(lambda: set(temporary.glob("imdb-serving-fork-*")) <= before, 20)
