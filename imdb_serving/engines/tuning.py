"""Measures an engine on this machine: interpreter lock, shared weights, math threads, and its fastest variant.

What is fastest on one processor is slow on another, so a result counts only where it was measured. It is kept beside
the model under the processor's name, the library versions and the math threads; where the model's folder cannot be
written, it is measured at every start.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import statistics
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np

from imdb_serving.config import whole_file
from imdb_serving.engines.apart import run_apart
from imdb_serving.engines.engine import Engine
from imdb_serving.engines.probes import LENGTHS, Probes, probe
from imdb_serving.engines.registry import (
    ENGINES,
    EngineSpec,
    check_model,
    check_packages,
    make_engine,
    missing_package,
    variants_of,
)
from imdb_serving.errors import ServerStartError, ServingError
from imdb_serving.model import TUNING
from imdb_serving.model.bundle import Bundle

log = logging.getLogger(__name__)

ROUNDS = 5
TIE = 0.05
PROBE_SECONDS = 120.0


class Result(msgspec.Struct, frozen=True):
    """What was found: the variant to use, how many reviews a second each gave on one core, and what `tune` tried."""

    variant: str
    reviews_per_second: dict[str, float]
    measured: str
    probes: Probes | None = None


Results = dict[str, Result]


def processor() -> str:
    """Return an identity of this processor: its name, and a short hash of its features."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name") or facts.get("CPU part") or platform.machine()
    can = [facts.get(key, "") for key in ("cpu family", "model", "CPU implementer", "flags", "Features")]
    return f"{name} ({hashlib.sha256(' '.join(can).encode()).hexdigest()[:6]})"


def key_of(spec: EngineSpec) -> str:
    """Return under what the result of a probe is kept; raise `ConfigError` when the engine is not installed."""
    check_packages(spec)
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in spec.facts.packages)
    return f"{spec.name}, {processor()}, {versions}, {spec.math_threads} math threads"


def _variants(spec: EngineSpec, bundle: Bundle) -> tuple[str, ...]:
    return variants_of(spec.facts, bundle.card) or ("",)


def known(spec: EngineSpec, bundle: Bundle) -> Result | None:
    """Return what was found here before, or None."""
    result = _kept(bundle).get(key_of(spec))
    return result if result and result.variant in _variants(spec, bundle) else None


def find(spec: EngineSpec, bundle: Bundle, *, renew: bool = False) -> Result:
    """Return the fastest variant of an engine here, as found before, else measured now and kept.

    To `renew` it is to measure it anyhow, and to try the engine's other properties as well.
    """
    found = None if renew else known(spec, bundle)
    if found is None:
        variants = _variants(spec, bundle)
        found = measure({name: make_engine(replace(spec, variant=name), bundle) for name in variants}, bundle)
        if renew:
            chosen = replace(spec, variant=found.variant)
            make = partial(_with_math_threads, chosen, bundle)
            probes = probe(make, bundle.sample)
            found = msgspec.structs.replace(found, probes=probes)
        _keep(bundle, {**_kept(bundle), key_of(spec): found})
    return found


def _with_math_threads(spec: EngineSpec, bundle: Bundle, math_threads: int) -> Engine:
    return make_engine(replace(spec, math_threads=math_threads), bundle)


def measure(engines: dict[str, Engine], bundle: Bundle) -> Result:
    """Run every variant in turn, some rounds, and choose by the median; of those within 5 % the first counts.

    Each round has lengths of its own, as reviews have: an engine that prepares something for each length pays for it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    generator = np.random.default_rng(2020)
    for round_ in range(ROUNDS + 1):
        reviews = [bundle.sample(length + round_, generator) for length in LENGTHS]
        for name, engine in engines.items():
            began = perf_counter()
            for review in reviews:
                engine.run([review])
            seconds[name].append(perf_counter() - began)
    speeds = {name: len(LENGTHS) / statistics.median(times[1:]) for name, times in seconds.items()}
    best = max(speeds.values())
    chosen = next(name for name, speed in speeds.items() if speed >= best * (1 - TIE))
    return Result(chosen, {name: round(speed) for name, speed in speeds.items()}, _now())


def resolve(spec: EngineSpec, bundle: Bundle | None) -> EngineSpec:
    """Return `spec` with its variant decided, so that all workers of a server use the same one.

    Raises as `check_model` and `find_apart` do.
    """
    check_model(spec, bundle)
    if bundle is None or spec.variant or not variants_of(spec.facts, bundle.card):
        return spec
    return replace(spec, variant=ensure(spec, bundle).variant)


def ensure(spec: EngineSpec, bundle: Bundle, *, probed: bool = False) -> Result:
    """Return what is known of an engine here, finding it out in a process of its own where nothing is.

    With `probed` its other properties, the interpreter lock first of all, must be known as well.
    """
    check_model(spec, bundle)
    found = known(spec, bundle)
    if found is None or (probed and found.probes is None):
        return find_apart(spec, bundle, renew=probed)
    return found


def find_apart(spec: EngineSpec, bundle: Bundle, *, renew: bool = False) -> Result:
    """Do what `find` does in a process of its own, for a framework takes time and memory that a server does not need.

    Raises `ServerStartError` when that fails.
    """
    try:
        return run_apart(partial(find, spec, bundle, renew=renew), PROBE_SECONDS, spec.facts.preload)
    except ServingError as error:
        raise ServerStartError(f"the engine {spec.name} could not be tuned: {error}") from error


def all_known(bundle: Bundle) -> dict[str, Result]:
    """Return what was found on this machine, with the versions there are now, by engine."""
    specs = [EngineSpec(name) for name, facts in ENGINES.items() if facts.needs_model and not missing_package(facts)]
    found = {spec.name: known(spec, bundle) for spec in specs}
    return {name: result for name, result in found.items() if result}


def _kept(bundle: Bundle) -> Results:
    """Return all results beside the model; what cannot be read is measured again."""
    try:
        return msgspec.json.decode((bundle.folder / TUNING).read_bytes(), type=Results)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def _keep(bundle: Bundle, results: Results) -> None:
    """Write all results; a reader sees the old file or the new one, never half of one."""
    try:
        with whole_file(bundle.folder / TUNING) as unfinished:
            unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    except OSError as error:
        log.warning("what was tuned cannot be kept beside the model: %s", error)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
