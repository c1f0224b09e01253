"""What shall be gone when this process ends, however it ends: the file of a socket, a folder of temporary files.

Nothing can be done in a process that is killed. So a small one waits for its end, and removes what it left.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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


class Janitor:
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
def fleeting_folder() -> Iterator[str]:
    """Give a folder for temporary files that is gone with the block, or with this process if that is killed."""
    folder = tempfile.mkdtemp(prefix="imdb-serving-")
    janitor = Janitor(folder)
    try:
        yield folder
    finally:
        janitor.close()
