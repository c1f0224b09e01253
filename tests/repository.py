"""Which files belong to the project: a user may have made others beside them, as by papermill or for a sweep."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def own_files(pattern: str) -> list[Path]:
    """The files that match, in order: those that git has; all of them outside a repository."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "--", f":(glob){pattern}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return sorted(ROOT.glob(pattern))
    return sorted(ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file())
