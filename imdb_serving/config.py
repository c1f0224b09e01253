"""What the whole package agrees on: default endpoints, time limits, former names, and where the project's folder is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from imdb_serving.errors import ConfigError

WorkerKind = Literal["thread", "process"]

DEFAULT_ENDPOINT = "tcp://127.0.0.1:9292"
DEFAULT_HTTP_ENDPOINT = "http://127.0.0.1:9294"
DEFAULT_TIMEOUT = 5.0
MAX_TIMEOUT = 86_400.0
WAIT_SECONDS = 60.0
"""How long command-line clients wait for a server that starts."""

DEFAULT_SWEEP = "params/default.yaml"

MAX_ANSWER_BYTES = 256 << 20
"""The most bytes that a client reads of one answer by default."""

MAX_MESSAGE_BYTES = 16 << 20
"""The most bytes of one request that a server reads by default."""

MAX_QUEUE = 1000
"""The most requests that wait at a server by default."""

MAX_SAMPLES = 4096
"""The most samples of one request by default."""

MAX_REVIEW_WORDS = 1 << 16
"""The most words of one sample by default; about 3 KB a word in Paddle, 200 MB in all."""

FORMER_NAMES = {"null": "none", "None": "none"}
"""Other words for an engine. YAML, pandas and papermill read `null` as nothing, and nothing is written `None`."""


def engine_name(name: str) -> str:
    """Return an engine's name, which may be given by a former one."""
    return FORMER_NAMES.get(name, name)


def at_home(path: str) -> Path:
    """Return a path, `~` and `~name` replaced by their homes; raise `ConfigError` when there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"cannot use the path {path}: {error}") from None


def check_output(path: Path) -> Path:
    """Return a path to write below; raise `ConfigError` for one through a link whose target is not there."""
    for part in (path, *path.parents):
        if part.is_symlink() and not part.exists():
            target = part.readlink()
            raise ConfigError(f"{part} is a link to {target}, which is not there; make that, or name another folder")
    return path


PROJECT_FOLDERS = ("notebooks", "params", "examples")
"""The folders that a project has beside its outputs, and that are installed with the package."""

INSTALLED = "project"
"""Where in the installed package they are; in a checkout they are beside it."""


def project_root() -> Path:
    """Return the nearest folder, from here upwards, that holds `notebooks` and `params`; else the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if _is_project(folder)), here)


def _is_project(folder: Path) -> bool:
    return (folder / "notebooks").is_dir() and (folder / "params").is_dir()


def shipped(name: str) -> Path:
    """Return a file or folder of `PROJECT_FOLDERS` as it came with the package: in it, or in a checkout beside it."""
    package = Path(__file__).parent
    installed = package / INSTALLED
    return (installed if installed.is_dir() else package.parent) / name


def default_sweep() -> Path:
    """Return the project's params/default.yaml; it is written where there is none."""
    root = project_root()
    path = check_output(Path(DEFAULT_SWEEP) if root == Path.cwd() else root / DEFAULT_SWEEP)
    if not path.exists():
        with whole_file(path) as unfinished:
            unfinished.write_bytes(shipped(DEFAULT_SWEEP).read_bytes())
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; at the end of the block the file appears at `path`, whole. On an error nothing does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def digest_of(*paths: Path) -> str:
    """Return the SHA-256 of files, one behind the other, in pieces: they may be large."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def number_ranges(numbers: Iterable[int]) -> str:
    """Return whole numbers as `0-3,6`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)
