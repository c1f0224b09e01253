"""The environment card: machine and software of a measurement; and advice on what disturbs measuring."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import msgspec

import imdb_serving
from imdb_serving.cell import digest
from imdb_serving.config import INSTALLED, project_root, whole_file
from imdb_serving.engines.tuning import all_known
from imdb_serving.measurement.machine import load, machine_facts, wake_up_us
from imdb_serving.model.bundle import Bundle
from imdb_serving.text.rows import TextFile

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

NOT_MEASURING = (
    *(("report",), ("cli",), ("lab",), ("analysis",), ("__main__.py",)),
    *(("measurement", name) for name in ("ledger.py", "environment.py", "machine.py")),
)
"""Rooms and files, as path parts, whose code cannot change a measurement: it parses, records, judges or draws."""

Card = dict[str, Any]


def environment_card(model: Bundle | None = None) -> Card:
    """Return the machine, its load, the versions, and what was found of the engines that run `model`: plain values."""
    return _complete(_fixed(model))


def keep_card(folder: Path, model: Bundle | None = None) -> Card:
    """Write this machine's card below `folder` unless it has one of the same id; return the card."""
    fixed = _fixed(model)
    return read_card(folder, fixed["id"]) or write_card(folder, _complete(fixed))


def write_card(folder: Path, card: Card) -> Card:
    """Write a card below `folder`, of this machine or of another, and return it."""
    with whole_file(folder / FOLDER / f"{card['id']}.json") as unfinished:
        unfinished.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def _fixed(model: Bundle | None) -> Card:
    """Return the facts that stay until machine, software, code or the choice of a kernel change, and their id."""
    engines = msgspec.to_builtins(all_known(model)) if model else {}
    packages = {"imdb-serving": _release(), **{name: _version(name) for name in PACKAGES}}
    fixed = {**machine_facts(), "packages": packages, "code": code_digest()}
    kernels = {name: found["variant"] for name, found in engines.items()}
    return {"id": digest(fixed, kernels), **fixed, "engines": engines}


def _release() -> str:
    """Return the release that this is or leads to. The digest of the code tells apart what lies between two."""
    return imdb_serving.__version__.partition(".dev")[0].partition("+")[0]


def _complete(fixed: Card) -> Card:
    """Add the facts of the moment, such as the load."""
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
    """Return a digest of the code that measures: of every source file that `decides`."""
    root = Path(imdb_serving.__file__).parent
    sums = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if decides(name):
            sums.update(name.as_posix().encode() + b"\0" + path.read_bytes())
    return sums.hexdigest()[:12]


def decides(path: PurePath) -> bool:
    """Tell whether a source file, relative to the package, can change a measurement.

    Examples that are installed with the package cannot, and are not there in a checkout.
    """
    return path.parts[0] != INSTALLED and not any(path.parts[: len(parts)] == parts for parts in NOT_MEASURING)


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


def identity(cards: Sequence[str], model: str, seed: int, texts: TextFile | None = None) -> str:
    """Return the identity of machines, software, code, model and inputs: the part of a row's key beside the cell.

    `cards` are the ids of the machines' cards, one where server and clients are on machines alike; `texts` says what
    is sent, None for the packaged reviews.
    """
    return digest("+".join(cards), model, seed, *([texts.columns, texts.checksum] if texts else []))


TEXTS = "texts.json"


def keep_texts(folder: Path, words: str) -> None:
    """Write below `folder` what the texts that are sent are, in words, beside those of other runs."""
    path = folder / TEXTS
    kept = read_texts(folder)
    if words and words not in kept:
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps([*kept, words], indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_texts(folder: Path) -> list[str]:
    """Return what is known of the texts that were sent."""
    with suppress(OSError, ValueError):
        found: list[str] = json.loads((folder / TEXTS).read_text(encoding="utf-8"))
        return found
    return []


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


BUSY_LOAD = 0.3
SLOW_WAKE_UP_US = 15.0
LITTLE_MEMORY_GIB = 2.0
STEAL = 0.02
QUICK_CLOCKS = ("tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page", "")
"""Clock sources that are read without a call into the kernel; empty where the system does not say."""


class Advice(NamedTuple):
    """One thing that makes measurements on this machine worse, and what to do about it."""

    problem: str
    remedy: str


def advise(card: Mapping[str, Any], now: Mapping[str, Any]) -> list[Advice]:
    """Return what is wrong, the gravest first.

    `card` is an environment card; `now` has what is so at this moment: `load`, `busiest` (words), `steal` (a share),
    `memory_gib` that is free, `clock` (its source).
    """
    return [*_busy(now), *_cores(card), *_frequency(card), *_latency(card, now), *_rest(card, now)]


def _busy(now: Mapping[str, Any]) -> Iterator[Advice]:
    if now["load"] > BUSY_LOAD or now["busiest"]:
        who = f": {', '.join(now['busiest'])}" if now["busiest"] else ""
        yield Advice(f"the machine is busy, load {now['load']:.1f}{who}", "end what is not needed, and wait a minute")
    if now["steal"] > STEAL:
        yield Advice(
            f"the hypervisor takes {now['steal']:.0%} of the cores",
            "measure at another time, or on a machine of your own",
        )


def cores_of(card: Mapping[str, Any]) -> float:
    """Return the cores that a card allows: the least of those a process may be on and the quota of its groups."""
    allowed, quota = float(card["cores_allowed"]), card.get("cpu_quota")
    return min(allowed, float(quota)) if quota else allowed


def most_cores(folder: Path, names: Iterable[str]) -> float:
    """Return the most cores that any of these cards of a sweep's folder allows; 1.0 where none is there."""
    cards = [read_card(folder, name) for name in dict.fromkeys(names) if name]
    return max((cores_of(card) for card in cards if card), default=1.0)


def _cores(card: Mapping[str, Any]) -> Iterator[Advice]:
    allowed, cores, quota = card["cores_allowed"], card["cores"], card.get("cpu_quota")
    if quota is not None and quota < allowed:
        yield Advice(
            f"the control group allows {quota:g} of {allowed} cores, and stops everything in between",
            "raise the container's CPU limit to whole cores, or pin it to some (--cpuset-cpus)",
        )
    if allowed < cores:
        yield Advice(f"this process may use {allowed} of {cores} cores", "look at taskset, or the container's cpuset")
    if (usable := cores_of(card)) < 4:
        yield Advice(
            f"clients and server share {usable:g} core{'' if usable == 1 else 's'}",
            "compare only within a run; for a server's own limit, run the clients on another machine",
        )
    if card.get("smt") == "1":
        yield Advice(
            "two hardware threads share a core, so a second worker may get half of one",
            "echo off | sudo tee /sys/devices/system/cpu/smt/control",
        )


def _frequency(card: Mapping[str, Any]) -> Iterator[Advice]:
    governor = card.get("governor")
    if governor and governor != "performance":
        yield Advice(
            f"the governor {governor!r} changes the cores' speed with their load",
            "sudo cpupower frequency-set -g performance",
        )
    if card.get("boost") in {"no_turbo 0", "boost 1"}:
        yield Advice(
            "the cores boost while they are cool, so later cells are slower",
            "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo, or echo 0 to cpufreq/boost",
        )
    if card.get("hypervisor"):
        yield Advice("a virtual machine: its speed drifts with its neighbours", "trust ratios within a round alone")


def _latency(card: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Advice]:
    wake_up = card.get("wake_up_us")
    if wake_up is not None and wake_up > SLOW_WAKE_UP_US:
        yield Advice(
            f"waking an idle core costs {wake_up:g} µs: latencies at low load measure that",
            "look at two clients and more; on your own machine: sudo cpupower idle-set -D 0",
        )
    if now["clock"] not in QUICK_CLOCKS:
        yield Advice(f"the clock source {now['clock']} is slow to read", "use tsc where the processor has a stable one")


def _rest(card: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Advice]:
    if now["memory_gib"] < LITTLE_MEMORY_GIB:
        yield Advice(
            f"{now['memory_gib']:.1f} GiB of memory are free; a Paddle process takes 0.4", "end what is not needed"
        )
    if str(card.get("git", "")).endswith("-dirty"):
        yield Advice("the code differs from its commit, so nobody else can run it", "commit, then measure")
    if not card.get("engines"):
        yield Advice(
            "nothing is known yet of the engines on this machine", "imdb-serving tune outputs/models/cnn, once"
        )
