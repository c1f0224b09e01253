"""The packages that extras bring: of which extra a missing one is. Knows names only, and imports none of them."""

from __future__ import annotations

import re
from collections import Counter
from importlib import metadata

from imdb_serving.errors import ConfigError

DISTRIBUTION = "imdb-serving"
NOT_NAMED = ("all", "test")
"""Extras that no message names: they bring what others bring, or what only the tests use."""

_DISTRIBUTION_OF = {
    "grpc": "grpcio",
    "mlflow": "mlflow-skinny",
    "mlperf_loadgen": "mlcommons-loadgen",
    "paddle": "paddlepaddle",
    "yaml": "pyyaml",
}
_REQUIREMENT = re.compile(r"""^([\w.-]+).*;.*\bextra == ["']([\w-]+)["']""")


def extra_of(package: str) -> str:
    """Return the smallest extra that brings a package, given by its name or its module's; empty when none does."""
    name = _DISTRIBUTION_OF.get(package, package).replace("_", "-").lower()
    sizes = Counter(extra for _, extra in _required())
    extras = [extra for required, extra in _required() if required == name and extra not in NOT_NAMED]
    return min(extras, key=lambda extra: sizes[extra], default="")


def is_installed(name: str) -> bool:
    """Tell whether a package is installed, by its own name and not its module's."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def require(name: str) -> None:
    """Raise `ConfigError` when a package is not installed, with the command that installs it."""
    if not is_installed(name):
        raise ConfigError(f"this needs the package {name}: {install(name)}")


def require_extras(*extras: str) -> None:
    """Raise `ConfigError` when a package of these extras is not installed, with the command that installs them all."""
    needed = dict.fromkeys(name for name, extra in _required() if extra in extras)
    if missing := [name for name in needed if not is_installed(name)]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ConfigError(f"this needs {', '.join(missing[:3])}{more}: pip install '{DISTRIBUTION}[all]'")


def install(package: str) -> str:
    """Return the command that installs a package which is missing, with the rest of its extra.

    pip finds `imdb-serving` itself installed, and fetches what is missing alone.
    """
    extra = extra_of(package)
    return (
        f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {_DISTRIBUTION_OF.get(package, package)}"
    )


def _required() -> list[tuple[str, str]]:
    """Return the packages of extras, each with its extra. Nothing is known where this package is not installed."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    found = [_REQUIREMENT.match(line) for line in requirements]
    return [(one[1].replace("_", "-").lower(), one[2]) for one in found if one]
