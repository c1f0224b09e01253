"""The CPU quota of this process's control group, of versions 1 and 2, and of all groups above it. Reads files only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

SELF = Path("/proc/self")


class Mount(NamedTuple):
    """Where a hierarchy of groups is mounted: the group at that place, the place, and whether it is of version 2."""

    root: str
    place: Path
    unified: bool


def cpu_quota(process: Path = SELF) -> float | None:
    """Return how many cores the strictest group allows, None for no limit.

    `process` is the process's folder in /proc.
    """
    paths = dict(_paths(process))
    found = [
        quota
        for mount in _mounts(process)
        for folder in _up(mount, paths.get("" if mount.unified else "cpu", "/"))
        if (quota := _quota(folder, unified=mount.unified)) is not None
    ]
    return round(min(found), 2) if found else None


def _paths(process: Path) -> Iterator[tuple[str, str]]:
    """Yield the process's group by controller; of version 2, which has one for all, by an empty name."""
    for line in _read(process / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            yield name, path


def _mounts(process: Path) -> Iterator[Mount]:
    """Yield the mounted hierarchies that limit CPU time."""
    for line in _read(process / "mountinfo").splitlines():
        place, _, kind = line.partition(" - ")
        fields, (system, *_, options) = place.split(" "), kind.split(" ")
        if system == "cgroup2" or (system == "cgroup" and "cpu" in options.split(",")):
            yield Mount(_plain(fields[3]), Path(_plain(fields[4])), system == "cgroup2")


def _plain(text: str) -> str:
    """Return a path without the escapes that mountinfo has for white space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _up(mount: Mount, path: str) -> Iterator[Path]:
    """Yield the folders of a group and of all above it that can be seen; of one that cannot be, the mount's own."""
    try:
        inner = PurePosixPath(path).relative_to(mount.root)
    except ValueError:
        inner = PurePosixPath()
    folder = mount.place / inner
    yield folder
    while folder != mount.place and mount.place in folder.parents:
        folder = folder.parent
        yield folder


def _quota(folder: Path, *, unified: bool) -> float | None:
    if unified:
        quota, _, period = _read(folder / "cpu.max").partition(" ")
    else:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
