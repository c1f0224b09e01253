"""What the whole package agrees on: default endpoints and time limits, and where the project's folder is."""

from __future__ import annotations

from pathlib import Path

DEFAULT_ENDPOINT = "tcp://127.0.0.1:9292"
DEFAULT_HTTP_ENDPOINT = "http://127.0.0.1:9294"
DEFAULT_TIMEOUT = 5.0
MAX_TIMEOUT = 86_400.0
MAX_ANSWER_BYTES = 256 << 20
"""What a client reads at most of one answer, unless told otherwise."""


def project_root() -> Path:
    """Return the nearest folder, from here upwards, that holds `notebooks` and `params`; else the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if is_project(folder)), here)


def is_project(folder: Path) -> bool:
    """Tell whether this is the project's own folder."""
    return (folder / "notebooks").is_dir() and (folder / "params").is_dir()
