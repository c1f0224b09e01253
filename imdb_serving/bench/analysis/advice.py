"""What is wrong with a machine for measuring, and what to do. Knows the facts of an environment card; reads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

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


def _cores(card: Mapping[str, Any]) -> Iterator[Advice]:
    allowed, cores, quota = card["cores_allowed"], card["cores"], card.get("cpu_quota")
    if quota is not None and quota < allowed:
        yield Advice(
            f"the control group allows {quota:g} of {allowed} cores, and stops everything in between",
            "raise the container's CPU limit to whole cores, or pin it to some (--cpuset-cpus)",
        )
    if allowed < cores:
        yield Advice(f"this process may use {allowed} of {cores} cores", "look at taskset, or the container's cpuset")
    if allowed < 4:
        yield Advice(
            f"clients and server share {allowed} core{'' if allowed == 1 else 's'}",
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
