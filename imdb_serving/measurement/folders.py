"""Where a run's results go, its name, and locks that let one process at a time measure in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from imdb_serving.config import at_home, check_output, project_root
from imdb_serving.errors import DataError
from imdb_serving.measurement.parameters import GridParams, LadderParams


def outputs_folder(params: GridParams | LadderParams) -> Path:
    """Return the sweep's folder below the outputs folder."""
    outputs = at_home(params.outputs) if params.outputs else project_root() / "outputs"
    return check_output(outputs / params.sweep)


def new_run() -> str:
    """Return a name that no other run has: the time, to the microsecond."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")


@contextmanager
def exclusive(folder: Path, name: str, wait: float, what: str) -> Iterator[None]:
    """Hold a folder's lock `name` for the block; wait up to `wait` seconds for it.

    Raises `DataError`, which says `what` is at work there, when another process still holds it then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{name}.lock", timeout=wait, poll_interval=0.2)
    try:
        lock.acquire()
    except Timeout as error:
        raise DataError(f"{what} is at work in {folder}; wait for it, or write elsewhere") from error
    try:
        yield
    finally:
        lock.release()
