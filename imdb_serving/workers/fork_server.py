"""The fork server's folder, which holds the socket that processes are asked for at: short enough, and gone afterwards.

The server and its fork server both import this. The fork server outlives a server that is killed, by as long as it
takes it to notice, and removes the folder then.
"""

from __future__ import annotations

import atexit
import multiprocessing.forkserver
import os
import shutil
import sys
import tempfile
from multiprocessing import process, resource_tracker
from pathlib import Path
from time import monotonic, sleep

PREFIX = "imdb-serving-fork-"
LONGEST = 65
"""Bytes of a folder for temporary files in which a socket still has a name that is short enough (108 bytes in all)."""

ORPHANED_SECONDS = 5.0
"""A process that is killed closes its files some time before it leaves its children."""

SHORT = "/tmp"  # noqa: S108 - a folder of our own is made in it


def prepare() -> None:
    """Make the folder of the fork server that is started next, if none runs; called before a process is started."""
    resource_tracker.ensure_running()  # its start unblocks signals, which who starts a process has blocked
    config = process.current_process()._config  # type: ignore[attr-defined] # there is no other way
    running = multiprocessing.forkserver._forkserver._forkserver_pid is not None  # type: ignore[attr-defined]
    folder = config.get("tempdir")
    ours = bool(folder) and Path(folder).name.startswith(PREFIX)
    if not folder or (ours and not (running and Path(folder).is_dir())):
        if ours:
            shutil.rmtree(folder, ignore_errors=True)
        usual = tempfile.gettempdir()
        config["tempdir"] = tempfile.mkdtemp(prefix=PREFIX, dir=usual if len(usual.encode()) <= LONGEST else SHORT)


_parent = os.getppid()
_is_fork_server = any("multiprocessing.forkserver" in word for word in sys.orig_argv)


def _orphaned() -> bool:
    until = monotonic() + ORPHANED_SECONDS
    while os.getppid() == _parent and monotonic() < until:
        sleep(0.01)
    return os.getppid() != _parent


def _remove() -> None:
    if _is_fork_server and not _orphaned():
        return  # the server lives on, and will see to it
    address = multiprocessing.forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]
    config = process.current_process()._config  # type: ignore[attr-defined]
    there = Path(address).parent if isinstance(address, str) and address[:1] != "\0" else config.get("tempdir")
    if there and Path(there).name.startswith(PREFIX):
        shutil.rmtree(there, ignore_errors=True)


atexit.register(_remove)
os.register_at_fork(after_in_child=lambda: atexit.unregister(_remove))  # the folder is the parent process's
