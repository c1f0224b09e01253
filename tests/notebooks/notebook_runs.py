"""What the notebook tests share: reading what an executed notebook shows."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def shell_environment() -> dict[str, str]:
    """The environment of a shell in which this Python's commands are found first."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def shown(notebook: Path) -> str:
    """All that a notebook shows, as text: printed lines, tables as HTML; a figure is `<figure>`."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        parts += [_one(output) for output in cell.get("outputs", [])]
    return "\n".join(parts)


def _one(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    figure = "<figure>" if "image/png" in data else ""
    words = data.get("text/html", data.get("text/markdown", data.get("text/plain", output.get("text", ""))))
    return figure + "".join(words)


def processes_with(mark: str) -> list[int]:
    """The running processes whose environment holds the mark."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environ.read_bytes():
                found.append(int(environ.parent.name))
        except OSError:
            continue
    return found
