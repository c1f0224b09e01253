"""The environment card: on what machine and with what software a result was measured, kept beside the ledger.

Its id stands for what does not change between two measurements that may be compared; what does (load, time, probes) is
on the card, but not in the id. Knows no cell.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

import imdb_serving
from imdb_serving.bench.cell import digest
from imdb_serving.bench.record.machine import load, machine_facts, wake_up_us
from imdb_serving.config import project_root
from imdb_serving.engines.tuning import all_known
from imdb_serving.model.bundle import Bundle

PACKAGES = (
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

FOLDER = "cards"

ONLY_SHOWN = ("report", "commands", "cli", "__main__", "lab", "bench/analysis", "bench/record")
"""What a change of cannot change a sweep's measurement: it is drawn, judged or kept otherwise, or load by hand."""

Card = dict[str, Any]


def environment_card(model: Bundle | None = None) -> Card:
    """Return the machine, its load, the versions, and what was found of the engines that run `model`: plain values."""
    return _complete(_fixed(model))


def keep_card(folder: Path, model: Bundle | None = None) -> Card:
    """Write this machine's card below `folder`, unless one of the same id is there, and return the one there is."""
    fixed = _fixed(model)
    return read_card(folder, fixed["id"]) or write_card(folder, _complete(fixed))


def write_card(folder: Path, card: Card) -> Card:
    """Write a card below `folder`, of this machine or of another, and return it."""
    path = folder / FOLDER / f"{card['id']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    unfinished.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return card


def _fixed(model: Bundle | None) -> Card:
    """Return what stays as it is until machine, software, code or the choice of a kernel change, and its id."""
    engines = msgspec.to_builtins(all_known(model)) if model else {}
    packages = {"imdb-serving": imdb_serving.__version__, **{name: _version(name) for name in PACKAGES}}
    fixed = {**machine_facts(), "packages": packages, "code": code_digest()}
    kernels = {name: found["variant"] for name, found in engines.items()}
    return {"id": digest(fixed, kernels), **fixed, "engines": engines}


def _complete(fixed: Card) -> Card:
    """Add what is as it is just now."""
    program = Path(sys.argv[0]).name
    notebook = "ipykernel" in sys.argv[0]  # its arguments are files of this run alone
    return {
        **fixed,
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git": git_state(),
        "command": "a notebook" if notebook else " ".join([program, *sys.argv[1:]]),
        "load_before": load(),
        "wake_up_us": wake_up_us(),
    }


def read_card(folder: Path, card: str) -> Card:
    """Return a card by its id; empty when it is not there."""
    with suppress(OSError, ValueError):
        found: Card = json.loads((folder / FOLDER / f"{card}.json").read_text(encoding="utf-8"))
        return found
    return {}


@functools.lru_cache(maxsize=1)
def code_digest() -> str:
    """Return what stands for the code that measures: every source file but those that only show what came out."""
    root = Path(imdb_serving.__file__).parent
    sums = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(ONLY_SHOWN):
            sums.update(name.encode() + b"\0" + path.read_bytes())
    return sums.hexdigest()[:12]


def git_state() -> str:
    """Return the commit, and whether files differ from it; empty outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607 - whichever git there is
            cwd=project_root(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def identity(cards: Sequence[str], model: str, seed: int) -> str:
    """Return what stands for machines, software, code, model and inputs: the part of a row's key that is no cell.

    `cards` are the ids of the machines' cards, one where server and clients are on machines alike.
    """
    return digest("+".join(cards), model, seed)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
