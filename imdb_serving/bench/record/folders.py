"""Where a run's results go, and its name."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from imdb_serving.bench.parameters import GridParams, LadderParams
from imdb_serving.config import at_home, check_output, project_root


def outputs_folder(params: GridParams | LadderParams) -> Path:
    """Return the sweep's folder below the outputs folder."""
    outputs = at_home(params.outputs) if params.outputs else project_root() / "outputs"
    return check_output(outputs / params.sweep)


def new_run() -> str:
    """Return a name that no other run has: the time, to the microsecond."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")
