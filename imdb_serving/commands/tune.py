"""`imdb-serving tune`: what each engine does on this machine, measured and printed, and kept beside the model."""

from __future__ import annotations

import sys
from pathlib import Path

from imdb_serving.engines import tuning
from imdb_serving.engines.registry import EngineSpec, engines_for
from imdb_serving.engines.tuning import Result
from imdb_serving.errors import ConfigError
from imdb_serving.model.bundle import open_bundle
from imdb_serving.model.files import TUNING

HEAD = f"{'engine':<12} {'variant':<10} {'reviews/s':>10}  {'lock':<8} {'workers':<9} {'a 2nd one':>9}  2 math threads"


def tune_model(model: Path, engines: tuple[str, ...], math_threads: int) -> None:
    """Measure every engine that runs this model, or those named; print a table."""
    bundle = open_bundle(model)
    specs = [EngineSpec(name, math_threads) for name in engines or engines_for(bundle.card.net)]
    if standing_in := [spec.name for spec in specs if not spec.facts.needs_model]:
        raise ConfigError(f"{standing_in[0]} runs no model: there is nothing to tune")
    print(f"{tuning.processor()}; {bundle.card.net}, {math_threads} math threads, one core")
    print(HEAD)
    for spec in specs:
        print(f"{spec.name} ...", end="\r", file=sys.stderr, flush=True)
        print("\n".join(_lines(spec, tuning.find_apart(spec, bundle, renew=True))))
    print(f"kept in {bundle.folder / TUNING}", file=sys.stderr)


def _lines(spec: EngineSpec, found: Result) -> list[str]:
    """Return a line a variant, the chosen one marked, with the engine's properties behind the first."""
    lines: list[str] = []
    for variant, speed in found.reviews_per_second.items():
        mark = "*" if variant == found.variant and len(found.reviews_per_second) > 1 else " "
        lines.append(f"{spec.name if not lines else '':<12} {variant or '-':<9}{mark} {speed:>10,.0f}")
    if found.probes:
        releases, cores = found.probes.releases_lock, found.probes.math_threads_cores
        lines[0] += f"  {'released' if releases else 'held':<8} {spec.facts.worker_kind:<9}"
        lines[0] += (
            f" {found.probes.second_mb:>5.0f} MiB  {'one core here' if cores is None else f'{cores:.1f} cores busy'}"
        )
        if releases != spec.facts.releases_lock:
            lines.append(f"  unexpected: workers of {spec.name} are {spec.facts.worker_kind}s; try --worker-kind")
    return lines
