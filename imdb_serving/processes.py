"""Processes on this machine: the cores they may use, the fork server, clean-up after a process, and memory given back.

A process that is killed cannot clean up, so a small one waits for its end and removes the files it left.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import multiprocessing.forkserver
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import process, resource_tracker
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from imdb_serving.config import number_ranges
from imdb_serving.errors import ConfigError, ServerStartError

_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")

_cores_of_workers: list[list[int]] = []


def allowed_cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def parse_cores(words: str) -> list[int]:
    """Read `0-3,6` as taskset does; raise `ConfigError` for what is no list of cores, or names one not to be had."""
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError("cores: this system keeps no process on some of its cores; leave it out")
    cores: set[int] = set()
    for part in words.split(","):
        found = _RANGE.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise ConfigError(f"cores: expected a list like 0-3,6, got {words!r}")
        cores |= set(range(first, last + 1))
    if missing := sorted(cores - os.sched_getaffinity(0)):
        here = number_ranges(sorted(os.sched_getaffinity(0)))
        raise ConfigError(f"cores: {number_ranges(missing)} cannot be used here; those that can: {here}")
    return sorted(cores)


def split_cores(cores: Sequence[int], workers: int, each: int) -> list[list[int]]:
    """Give each worker so many cores of its own; none where there are not enough for all."""
    if workers * each > len(cores):
        return []
    return [list(cores[number * each : (number + 1) * each]) for number in range(workers)]


def pin_server(cores: Sequence[int], workers: int, each: int) -> None:
    """Keep this process, and what it starts from now on, on these cores, and give workers theirs."""
    pin(cores)
    for thread in Path("/proc/self/task").glob("*"):  # libraries have started some of theirs when loaded
        with suppress(OSError):
            os.sched_setaffinity(int(thread.name), cores)
    _cores_of_workers[:] = split_cores(cores, workers, each)


def cores_of_worker(number: int) -> list[int]:
    """Return the cores of a worker; none when it has none of its own."""
    return _cores_of_workers[number] if number < len(_cores_of_workers) else []


def pin(cores: Sequence[int]) -> None:
    """Keep the calling thread on these cores, if they are any; one that has gone since is no reason to fail."""
    if cores:
        with suppress(OSError):
            os.sched_setaffinity(0, cores)


MOST_DESCRIPTORS = 1 << 16


def raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as the system lets it have, or `MOST_DESCRIPTORS`; return how many."""
    try:
        import resource  # noqa: PLC0415 - not everywhere

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft, MOST_DESCRIPTORS)
    except (ImportError, OSError, ValueError):
        return 1024


FORK_FOLDER_PREFIX = "imdb-serving-fork-"
LONGEST_FOLDER_BYTES = 65
"""Bytes of a folder for temporary files in which a socket still has a name that is short enough (108 bytes in all)."""

ORPHANED_SECONDS = 5.0
"""A process that is killed closes its files some time before it leaves its children."""

SHORT_FOLDER = "/tmp"  # noqa: S108 - a folder of our own is made in it


def prepare_fork_server() -> None:
    """Make the folder of the fork server that is started next, if none runs; called before a process is started."""
    resource_tracker.ensure_running()  # its start unblocks signals, which who starts a process has blocked
    config = process.current_process()._config  # type: ignore[attr-defined] # there is no other way
    running = multiprocessing.forkserver._forkserver._forkserver_pid is not None  # type: ignore[attr-defined]
    folder = config.get("tempdir")
    ours = bool(folder) and Path(folder).name.startswith(FORK_FOLDER_PREFIX)
    if not folder or (ours and not (running and Path(folder).is_dir())):
        if ours:
            shutil.rmtree(folder, ignore_errors=True)
        usual = tempfile.gettempdir()
        config["tempdir"] = tempfile.mkdtemp(
            prefix=FORK_FOLDER_PREFIX, dir=usual if len(usual.encode()) <= LONGEST_FOLDER_BYTES else SHORT_FOLDER
        )


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
    if there and Path(there).name.startswith(FORK_FOLDER_PREFIX):
        shutil.rmtree(there, ignore_errors=True)


atexit.register(_remove)
os.register_at_fork(after_in_child=lambda: atexit.unregister(_remove))  # the folder is the parent process's


log = logging.getLogger(__name__)

END_SECONDS = 10.0
_REMOVE = """
import os, shutil, sys, time
path, folder, mark = sys.argv[1:]
sys.stdin.buffer.read()
for _ in range(20):  # processes that end just now may still be writing
    try:
        found = os.lstat(path)
        if mark != f"{found.st_dev} {found.st_ino} {'' if os.path.isdir(path) else found.st_mtime_ns}":
            break  # another's, by now
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
        if folder:
            os.rmdir(folder)
    except OSError:
        break
    time.sleep(0.2)
"""


class Cleanup:
    """Removes a file or folder when this process has ended, or `close` is called."""

    def __init__(self, path: str, folder: str = "") -> None:
        """Take a path that is there, and the folder around it to remove as well, if it was made for it."""
        found = Path(path).lstat()
        mark = f"{found.st_dev} {found.st_ino} {'' if Path(path).is_dir() else found.st_mtime_ns}"
        command = [sys.executable, "-I", "-S", "-c", _REMOVE, path, folder, mark]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            log.warning("should this process be killed, %s will stay: %s", path, error)

    def close(self) -> None:
        """Remove it now."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=END_SECONDS)


@contextmanager
def temporary_folder() -> Iterator[str]:
    """Give a folder for temporary files that is gone with the block, or with this process if that is killed."""
    folder = tempfile.mkdtemp(prefix="imdb-serving-")
    cleanup = Cleanup(folder)
    try:
        yield folder
    finally:
        cleanup.close()


class OwnProcess:
    """What starts a process and ends it: whether that runs, and its id."""

    _process: subprocess.Popen[Any] | None = None

    @property
    def pid(self) -> int:
        """The process's id; raises `ServerStartError` when there is none."""
        if self._process is None:
            raise ServerStartError("the server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """True from the start to the end of the process, however it ends."""
        return self._process is not None and self._process.poll() is None


FIRST_SECONDS = 1.0
TIDY_SECONDS = 30.0
"""The first pause and the longest: each is twice the one before. What start and first requests leave behind is most."""


def _trimmer() -> Callable[[int], Any]:
    """Return glibc's malloc_trim; with another C library, what does nothing."""
    try:
        trim: Callable[[int], Any] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda _: 0
    return trim


class HeapTrimmer:
    """Call `tidy` often, from one thread: it does its work, some milliseconds at most, when it is time to."""

    def __init__(self, now: float) -> None:
        """Take the time in monotonic seconds."""
        self._pause = FIRST_SECONDS
        self._due = now + FIRST_SECONDS
        self._trim = _trimmer()

    def tidy(self, now: float) -> None:
        """Give free pages back, if it is time to."""
        if now >= self._due:
            self._pause = min(2 * self._pause, TIDY_SECONDS)
            self._due = now + self._pause
            self._trim(0)
