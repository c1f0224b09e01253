"""Facts about this machine that matter for measuring: cores, CPU quota, memory, load, wake-up time."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from imdb_serving.engines.tuning import processor
from imdb_serving.measurement.control_groups import cpu_quota, memory_limit
from imdb_serving.processes import allowed_cores

CPU_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
SMT = Path("/sys/devices/system/cpu/smt/active")
BOOST = (Path("/sys/devices/system/cpu/intel_pstate/no_turbo"), Path("/sys/devices/system/cpu/cpufreq/boost"))
CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
WAKE_UPS = 400
PROBE_SECONDS = 20.0

_ECHO = "import os\nwhile byte := os.read(0, 1): os.write(1, byte)"


def machine_facts() -> dict[str, Any]:
    """Return what stays as it is while a machine is: plain values, empty or None where the system does not say."""
    return {
        "cpu": processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "cores_allowed": len(allowed_cores()),
        "cpu_quota": cpu_quota(),
        "smt": _read(SMT),
        "governor": _read(CPU_FREQUENCY),
        "boost": next((f"{path.name} {value}" for path in BOOST if (value := _read(path))), ""),
        "hypervisor": "hypervisor" in _read(Path("/proc/cpuinfo")),
        "memory_gib": round(allowed_memory() / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def usable_cores() -> float:
    """Return how many cores this process may use: the least of affinity and its control groups' quota."""
    count = float(len(allowed_cores()))
    return min(count, cpu_quota() or count)


def allowed_memory() -> int:
    """Return the bytes of memory that this process may use, by the machine and its control groups."""
    total = psutil.virtual_memory().total
    return min(total, memory_limit() or total)


def free_memory() -> int:
    """Return the bytes of memory that are free on this machine, at most what this process may use."""
    return min(psutil.virtual_memory().available, allowed_memory())


def load() -> float:
    """Return the processes that wanted a core in the last minute."""
    return os.getloadavg()[0]


def wake_up_us() -> float | None:
    """Return what waking an idle core costs: half the way of a byte to a process pinned to another core and back.

    The median of some hundred, in microseconds; None where there is one core only, or none can be pinned.
    """
    cores = allowed_cores()
    if len(cores) < 2 or not hasattr(os, "sched_setaffinity"):
        return None
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [sys.executable, "-c", _PING, str(cores[0]), str(cores[1])],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PROBE_SECONDS,
            check=True,
        )
        return round(statistics.median(map(float, done.stdout.split())) / 2, 1)
    return None


_PING = f"""
import os, subprocess, sys, time
here, there = int(sys.argv[1]), int(sys.argv[2])
os.sched_setaffinity(0, {{here}})
echo = subprocess.Popen(
    [sys.executable, "-c", {_ECHO!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
)
os.sched_setaffinity(echo.pid, {{there}})
out, back = echo.stdin.fileno(), echo.stdout.fileno()
for number in range({WAKE_UPS} + 20):
    time.sleep(0.0005)  # both cores fall asleep
    begun = time.perf_counter_ns()
    os.write(out, b"x")
    os.read(back, 1)
    if number >= 20:
        print((time.perf_counter_ns() - begun) / 1000)
echo.stdin.close()
echo.wait(5)
"""


def busiest(count: int = 3) -> list[str]:
    """Return the processes that use most CPU just now, looked at for a moment, each in a few words."""
    processes = list(psutil.process_iter())
    for process in processes:
        with suppress(psutil.Error):
            process.cpu_percent()
    psutil.cpu_percent(interval=0.3)
    found = []
    for process in processes:
        with suppress(psutil.Error):
            found.append((process.cpu_percent() / 100, process.pid, process.name()))
    found.sort(reverse=True)
    others = [one for one in found if one[1] != os.getpid()]
    return [f"{name} (pid {pid}) {cores:.1f} cores" for cores, pid, name in others[:count] if cores >= 0.1]


def present_state() -> dict[str, Any]:
    """Return what is so at this moment: load, the busiest processes, the hypervisor's share, free memory, the clock."""
    before = psutil.cpu_times()
    names = busiest()
    after = psutil.cpu_times()
    total = sum(after) - sum(before)
    return {
        "load": load(),
        "busiest": names,
        "steal": (getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)) / total if total > 0 else 0.0,
        "memory_gib": min(psutil.virtual_memory().available, allowed_memory()) / 2**30,
        "clock": _read(CLOCK_SOURCE),
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
