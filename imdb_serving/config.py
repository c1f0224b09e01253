"""What the whole package agrees on: default endpoints, time limits, former names, and where the project's folder is."""

from __future__ import annotations

from pathlib import Path

from imdb_serving.errors import ConfigError

DEFAULT_ENDPOINT = "tcp://127.0.0.1:9292"
DEFAULT_HTTP_ENDPOINT = "http://127.0.0.1:9294"
DEFAULT_TIMEOUT = 5.0
MAX_TIMEOUT = 86_400.0
WAIT_SECONDS = 60.0
"""How long command-line clients wait for a server that starts."""

MAX_ANSWER_BYTES = 256 << 20
"""What a client reads at most of one answer, unless told otherwise."""


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


def project_root() -> Path:
    """Return the nearest folder, from here upwards, that holds `notebooks` and `params`; else the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if is_project(folder)), here)


def is_project(folder: Path) -> bool:
    """Tell whether this is the project's own folder."""
    return (folder / "notebooks").is_dir() and (folder / "params").is_dir()
