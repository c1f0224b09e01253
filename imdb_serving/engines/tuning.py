"""Measures an engine on this machine: interpreter lock, shared weights, math threads, and its fastest variant.

What is fastest on one processor is slow on another, so a result counts only where it was measured. It is kept beside
the model under the processor's name, the library versions and the math threads; where the model's folder cannot be
written, it is measured at every start.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import platform
import statistics
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time

import msgspec
import numpy as np

from imdb_serving.config import whole_file
from imdb_serving.engines.engine import Engine, Words
from imdb_serving.engines.registry import ENGINES, EngineSpec, check_model, make_engine
from imdb_serving.errors import ServerStartError
from imdb_serving.model import TUNING
from imdb_serving.model.bundle import Bundle

LONG = 1 << 15
"""Words of a review that takes most engines some time."""

LONGEST = 1 << 21
LOOK_SECONDS = 0.05
"""How long a call must take to be looked at from outside, beside what a busy machine does to the one who looks."""

USUAL = 256
"""Words of a review as they come, run where memory is looked at."""

TRIES = 5


class Probes(msgspec.Struct, frozen=True):
    """What was found.

    `releases_lock`: other threads run Python while the engine computes. `second_mb`: memory that one more engine in the
    same process takes, in MiB. `math_threads_cores`: cores busy with two math threads; None where one core is all
    there is.
    """

    releases_lock: bool
    second_mb: float
    math_threads_cores: float | None


def probe(make: Callable[[int], Engine]) -> Probes:
    """Try an engine; `make` makes one with a number of math threads."""
    review = np.zeros(LONG, dtype=np.int64)
    engine = make(1)
    engine.run([review[:USUAL]])
    before = _resident_mb()
    second = make(1)
    second.run([review[:USUAL]])
    second_mb = max(0.0, _resident_mb() - before)
    return Probes(
        releases_lock=releases_lock(engine, review),
        second_mb=round(second_mb, 1),
        math_threads_cores=_cores_of_two_math_threads(make, review),
    )


def releases_lock(engine: Engine, review: Words) -> bool:
    """Tell whether another thread can run Python while the engine computes, whatever else the machine does.

    A thread stamps as fast as it can. With the lock held, its longest pause is as long as the call. The shortest of
    some tries counts: a busy machine can make a pause longer, never shorter.
    """
    review = _long_enough(engine, review)
    shares = []
    for _ in range(TRIES):
        stamps = _Stamps()
        stamps.start()
        began = perf_counter()
        engine.run([review])
        ended = perf_counter()
        shares.append(stamps.longest_pause(began, ended) / (ended - began))
    return min(shares) < 0.5


def _long_enough(engine: Engine, review: Words) -> Words:
    """Return a review that is long enough to keep the engine busy for a while."""
    while True:
        began = perf_counter()
        engine.run([review])
        if perf_counter() - began >= LOOK_SECONDS or len(review) >= LONGEST:
            return review
        review = np.concatenate([review, review])


class _Stamps(threading.Thread):
    """A thread that takes stamps until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stamps: list[float] = []
        self._running = threading.Event()
        self._done = False

    def start(self) -> None:
        super().start()
        self._running.wait()

    def run(self) -> None:
        self._running.set()
        while not self._done:
            self._stamps.append(perf_counter())

    def longest_pause(self, began: float, ended: float) -> float:
        self._done = True
        self.join()
        inside = [stamp for stamp in self._stamps if began < stamp < ended]
        return float(np.diff([began, *inside, ended]).max())


def _cores_of_two_math_threads(make: Callable[[int], Engine], review: Words) -> float | None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        return None
    engine = make(2)
    engine.run([review])
    wall, cpu = perf_counter(), process_time()
    for _ in range(4 * TRIES):
        engine.run([review])
    return round((process_time() - cpu) / (perf_counter() - wall), 2)


def _resident_mb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


log = logging.getLogger(__name__)

LENGTHS = (40, 90, 130, 150, 175, 200, 240, 300, 400, 600, 900)
"""Words of the reviews that the probe runs, spread as IMDB's are."""

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
    """Return under what the result of a probe is kept."""
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in spec.facts.packages)
    return f"{spec.name}, {processor()}, {versions}, {spec.math_threads} math threads"


def _variants(spec: EngineSpec) -> tuple[str, ...]:
    return spec.facts.variants or ("",)


def known(spec: EngineSpec, bundle: Bundle) -> Result | None:
    """Return what was found here before, or None."""
    result = _kept(bundle).get(key_of(spec))
    return result if result and result.variant in _variants(spec) else None


def find(spec: EngineSpec, bundle: Bundle, *, renew: bool = False) -> Result:
    """Return the fastest variant of an engine here, as found before, else measured now and kept.

    To `renew` it is to measure it anyhow, and to try the engine's other properties as well.
    """
    found = None if renew else known(spec, bundle)
    if found is None:
        found = measure({name: make_engine(replace(spec, variant=name), bundle) for name in _variants(spec)}, bundle)
        if renew:
            chosen = replace(spec, variant=found.variant)
            probes = probe(lambda math_threads: make_engine(replace(chosen, math_threads=math_threads), bundle))
            found = msgspec.structs.replace(found, probes=probes)
        _keep(bundle, {**_kept(bundle), key_of(spec): found})
    return found


def measure(engines: dict[str, Engine], bundle: Bundle) -> Result:
    """Run every variant in turn, some rounds, and choose by the median; of those within 5 % the first counts.

    Each round has lengths of its own, as reviews have: an engine that prepares something for each length pays for it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    generator = np.random.default_rng(2020)
    for round_ in range(ROUNDS + 1):
        reviews = [generator.integers(0, bundle.card.vocabulary, length + round_) for length in LENGTHS]
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
    if bundle is None or spec.variant or not spec.facts.variants:
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
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(spec.facts.preload))
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_find, args=(theirs, spec, bundle, renew), name="tuning", daemon=True)
    process.start()
    theirs.close()
    try:
        word: Result | str = ours.recv() if ours.poll(PROBE_SECONDS) else f"no result in {PROBE_SECONDS:.0f} s"
    except EOFError:
        word = "its process died"
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(word, str):
        raise ServerStartError(f"the engine {spec.name} could not be tuned: {word}")
    return word


def _find(pipe: Connection, spec: EngineSpec, bundle: Bundle, renew: bool) -> None:
    try:
        pipe.send(find(spec, bundle, renew=renew))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def all_known(bundle: Bundle) -> dict[str, Result]:
    """Return what was found on this machine, with the versions there are now, by engine."""
    specs = [EngineSpec(name) for name, facts in ENGINES.items() if facts.needs_model]
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
