"""One at a time in a folder: locks that end with their process, however it ends. Knows files and no measurement."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from imdb_serving.errors import DataError

LOOK_SECONDS = 0.2


@contextmanager
def exclusive(folder: Path, name: str, wait: float, what: str) -> Iterator[None]:
    """Hold a folder's lock of that name for the block, waiting so many seconds for it.

    Raises `DataError`, which says `what` is at work there, when another process still holds it then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as lock:
        deadline = monotonic() + wait
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if monotonic() >= deadline:
                    raise DataError(f"{what} is at work in {folder}; wait for it, or write elsewhere") from error
                sleep(LOOK_SECONDS)
        yield
