"""What control groups allow and when they stop a process, as Linux lays out both versions, in and out of containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from imdb_serving.measurement.control_groups import cpu_quota, memory_limit, throttled_seconds


def lay_out(folder: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A process's folder in /proc, and the files of the groups below `folder`."""
    process = folder / "proc"
    process.mkdir()
    (process / "cgroup").write_text(groups)
    (process / "mountinfo").write_text(mounts.replace("ROOT", str(folder).replace(" ", "\\040")))
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content + "\n")
    return process


def of_1(group: str, quota: int) -> dict[str, str]:
    """A group's files in version 1."""
    return {f"{group}cpu.cfs_quota_us": str(quota), f"{group}cpu.cfs_period_us": "100000"}


V2 = "30 23 0:26 / ROOT/fs rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 24 0:27 / ROOT/cpu rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 24 0:28 / ROOT/memory rw,nosuid shared:11 - cgroup cgroup rw,memory\n"
)
GROUPS_1 = "4:memory:/deep\n3:cpu,cpuacct:/user/task\n2:cpuset:/elsewhere\n"
CASES = {
    "none": ("0::/\n", V2, {"fs/cpu.stat": "usage_usec 1"}, None),
    "no limit": ("0::/a\n", V2, {"fs/a/cpu.max": "max 100000"}, None),
    "version 2": ("0::/a\n", V2, {"fs/a/cpu.max": "50000 100000"}, 0.5),
    "version 2, above": ("0::/a/b/c\n", V2, {"fs/a/cpu.max": "150000 100000", "fs/a/b/c/cpu.max": "max 100000"}, 1.5),
    "version 2, strictest": ("0::/a/b\n", V2, {"fs/a/cpu.max": "100000 100000", "fs/a/b/cpu.max": "200000 1"}, 1.0),
    "version 2, a container's own": ("0::/\n", V2, {"fs/cpu.max": "25000 100000"}, 0.25),
    "version 1": (GROUPS_1, V1, of_1("cpu/user/task/", 50000), 0.5),
    "version 1, above": (GROUPS_1, V1, {**of_1("cpu/user/", 300000), **of_1("cpu/user/task/", -1)}, 3.0),
    "version 1, a container's mount": (
        "3:cpu,cpuacct:/docker/0123\n", V1.replace(" / ROOT/cpu", " /docker/0123 ROOT/cpu"),
        of_1("cpu/", 50000), 0.5),
    "version 1, a group that is not mounted": (
        "3:cpu,cpuacct:/docker/0123/inner\n", V1.replace(" / ROOT/cpu", " /kubepods/9 ROOT/cpu"),
        of_1("cpu/", 50000), 0.5),
    "both": (GROUPS_1 + "0::/x\n", V1 + V2, of_1("cpu/user/", 80000), 0.8),
    "garbage": ("0::/a\n", V2, {"fs/a/cpu.max": "many of them"}, None),
    "nothing": ("", "", {}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("folder", ["plain", "with space"])
def test_the_strictest_group_counts(name: str, folder: str, tmp_path: Path) -> None:
    groups, mounts, files, cores = CASES[name]
    (tmp_path / folder).mkdir()
    assert cpu_quota(lay_out(tmp_path / folder, groups, mounts, files)) == cores


def test_this_process_has_one_or_none() -> None:
    found = cpu_quota()
    assert found is None or found > 0


def test_a_system_without_proc_has_none(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "nothing") is None


MEMORY_CASES = {
    "none": ("0::/\n", V2, {"fs/cpu.stat": "usage_usec 1"}, None),
    "version 2, above": ("0::/a/b\n", V2, {"fs/a/memory.max": "1000000", "fs/a/b/memory.max": "max"}, 1_000_000),
    "version 1": (GROUPS_1, V1, {"memory/deep/memory.limit_in_bytes": "5000", "memory/memory.limit_in_bytes": "9"}, 9),
    "version 1, no limit": (GROUPS_1, V1, {"memory/deep/memory.limit_in_bytes": "9223372036854771712"}, None),
}


@pytest.mark.parametrize("name", MEMORY_CASES)
def test_the_least_memory_counts(name: str, tmp_path: Path) -> None:
    groups, mounts, files, limit = MEMORY_CASES[name]
    assert memory_limit(lay_out(tmp_path, groups, mounts, files)) == limit


HALF = {"fs/a/cpu.max": "50000 100000"}
OF_TASK = {**of_1("cpu/user/task/", 50000), "cpu/user/task/cpu.stat": "nr_periods 3\nthrottled_time 250000000"}
THROTTLED_CASES = {
    "no quota": ("0::/a\n", V2, {"fs/a/cpu.max": "max 100000", "fs/a/cpu.stat": "throttled_usec 5"}, None),
    "version 2": ("0::/a\n", V2, {**HALF, "fs/a/cpu.stat": "usage_usec 9\nthrottled_usec 1500000"}, 1.5),
    "version 2, above": (
        "0::/a/b\n",
        V2,
        {**HALF, "fs/a/cpu.stat": "throttled_usec 7000000", "fs/a/b/cpu.max": "x"},
        7,
    ),
    "version 1": (GROUPS_1, V1, OF_TASK, 0.25),
    "garbage": ("0::/a\n", V2, {**HALF, "fs/a/cpu.stat": "throttled_usec many"}, None),
}


@pytest.mark.parametrize("name", THROTTLED_CASES)
def test_the_time_that_a_quota_stopped_the_group_is_known(name: str, tmp_path: Path) -> None:
    groups, mounts, files, seconds = THROTTLED_CASES[name]
    assert throttled_seconds(lay_out(tmp_path, groups, mounts, files)) == seconds
