"""What control groups allow this process, and how long they stopped it: the strictest of its own and all above.

Both versions, in and out of containers, by the process's own path in /proc/self/cgroup. Reads files, starts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

SELF = Path("/proc/self")
CPU, MEMORY = "cpu", "memory"
NO_LIMIT = 1 << 60
"""From so many bytes on, version 1 means no limit of memory."""

Found = TypeVar("Found", int, float)


class Mount(NamedTuple):
    """Where a hierarchy of groups is mounted: the group at that place, the place, and whether it is of version 2."""

    root: str
    place: Path
    unified: bool


def cpu_quota(process: Path = SELF) -> float | None:
    """Return how many cores the strictest group allows, None for no limit.

    `process` is the process's folder in /proc.
    """
    found = _of_groups(process, CPU, _quota)
    return round(min(found), 2) if found else None


def memory_limit(process: Path = SELF) -> int | None:
    """Return how many bytes of memory the strictest group allows, None for no limit."""
    return min(_of_groups(process, MEMORY, _memory), default=None)


def throttled_seconds(process: Path = SELF) -> float | None:
    """Return for how long until now a quota stopped the group that was stopped most; None without a quota."""
    return max(_of_groups(process, CPU, _throttled), default=None)


def _of_groups(process: Path, controller: str, read: Callable[[Path, bool], Found | None]) -> list[Found]:
    """Return what is found in the folders of all groups that limit this process."""
    paths = dict(_paths(process))
    return [
        value
        for mount in _mounts(process, controller)
        for folder in _up(mount, paths.get("" if mount.unified else controller, "/"))
        if (value := read(folder, mount.unified)) is not None
    ]


def _paths(process: Path) -> Iterator[tuple[str, str]]:
    """Yield the process's group by controller; of version 2, which has one for all, by an empty name."""
    for line in _read(process / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            yield name, path


def _mounts(process: Path, controller: str) -> Iterator[Mount]:
    """Yield the mounted hierarchies that may limit what the controller is for."""
    for line in _read(process / "mountinfo").splitlines():
        place, _, kind = line.partition(" - ")
        fields, (system, *_, options) = place.split(" "), kind.split(" ")
        if system == "cgroup2" or (system == "cgroup" and controller in options.split(",")):
            yield Mount(_plain(fields[3]), Path(_plain(fields[4])), system == "cgroup2")


def _plain(text: str) -> str:
    """Return a path without the escapes that mountinfo has for white space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _up(mount: Mount, path: str) -> Iterator[Path]:
    """Yield the folders of a group and of all above it that can be seen; otherwise the mount's own."""
    try:
        inner = PurePosixPath(path).relative_to(mount.root)
    except ValueError:
        inner = PurePosixPath()
    folder = mount.place / inner
    yield folder
    while folder != mount.place and mount.place in folder.parents:
        folder = folder.parent
        yield folder


def _quota(folder: Path, unified: bool) -> float | None:
    if unified:
        quota, _, period = _read(folder / "cpu.max").partition(" ")
    else:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _memory(folder: Path, unified: bool) -> int | None:
    limit = _read(folder / ("memory.max" if unified else "memory.limit_in_bytes"))
    return int(limit) if limit.isdigit() and int(limit) < NO_LIMIT else None


def _throttled(folder: Path, unified: bool) -> float | None:
    if _quota(folder, unified) is None:
        return None
    name, unit = ("throttled_usec", 1e6) if unified else ("throttled_time", 1e9)
    values = dict(line.split(" ", 1) for line in _read(folder / "cpu.stat").splitlines() if " " in line)
    value = values.get(name, "")
    return int(value) / unit if value.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
