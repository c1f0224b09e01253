"""The environment card: on what machine and with what software a result was measured."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from imdb_serving.engines.tuning import all_known, processor
from imdb_serving.model.bundle import open_bundle

PACKAGES = (
    "imdb-serving",
    "paddlepaddle",
    "onnxruntime",
    "numba",
    "pyzmq",
    "flask",
    "httptools",
    "numpy",
    "msgspec",
    "papermill",
)


def environment_card(model: Path | None = None) -> dict[str, Any]:
    """Return the machine, its load, the versions, and what was found of the engines that run `model`: plain values."""
    engines = all_known(open_bundle(model)) if model else {}
    return {
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "engines": msgspec.to_builtins(engines),
    }
