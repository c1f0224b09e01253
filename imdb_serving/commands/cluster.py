"""A sweep's way to a cluster: its nodes looked at, its models and answers there, before anything is measured."""

from __future__ import annotations

import sys
from pathlib import Path

from imdb_serving.bench.cluster.site import ClusterSite
from imdb_serving.bench.parameters import SweepParams, model_folder
from imdb_serving.bench.runs.grid import inputs
from imdb_serving.bench.runs.models import model_id
from imdb_serving.bench.runs.site import engine_of, model_of
from imdb_serving.bench.runs.sweep import plan
from imdb_serving.engines.registry import EngineSpec, facts_of


def look_around(params: SweepParams, folder: Path) -> ClusterSite:
    """Join the cluster, look at its nodes, say which are left out, and have the bare engines' answers.

    Raises `ConfigError` without Ray, without a cluster, or without enough nodes.
    """
    site = ClusterSite(params.cluster)
    folder.mkdir(parents=True, exist_ok=True)
    engines: dict[str, list[EngineSpec]] = {}
    models: dict[str, Path | None] = {}
    for part in params.parts():
        model = model_folder(part) if facts_of(part.engine).needs_model else None
        engines.setdefault(model_id(model), []).append(EngineSpec(part.engine, part.math_threads))
        models[model_id(model)] = model
    print(f"cluster {params.cluster}: looking at the nodes, which takes a minute the first time", file=sys.stderr)
    site.look(folder, engines, models)
    runs = plan(params, folder.name, "look", folder.parent)
    most = max(runs, key=lambda run: sum(run.nodes))
    for line in site.unlike(folder, next(iter(models)), most):
        print(line, file=sys.stderr)
    for run in {(engine_of(run), model_of(run), run.pipeline): run for run in runs}.values():
        inputs(run, folder)  # or the first notebooks would compute them, beside a node that measures
    return site
