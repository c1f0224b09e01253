"""What the bare engine answers, kept beside the ledger: every served answer is compared with it. Knows no server."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from imdb_serving.bench.cell import digest
from imdb_serving.bench.load.local import BareClient
from imdb_serving.bench.load.session import LoadSession
from imdb_serving.bench.load.workload import ReviewWorkload
from imdb_serving.bench.runs.measuring import Probabilities
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import DataError
from imdb_serving.text.lines import Line

FOLDER = "answers"
SECONDS_A_REVIEW = 10.0


def bare_answers(
    folder: Path, spec: EngineSpec, model: Path | None, model_id: str, lines: Sequence[Line]
) -> Probabilities:
    """Return the bare engine's probability of the positive class, one a line, computed once for a sweep's folder.

    Raises `DataError` when the engine fails.
    """
    if spec.facts.timed:  # its answers are at once what they are after some time
        spec = replace(spec, service_time_ms=0.0)
    engine = (spec.name, spec.math_threads, spec.variant)
    path = folder / FOLDER / f"{digest(engine, model_id, [line.content for line in lines])}.npy"
    if path.is_file():
        kept: Probabilities = np.load(path, allow_pickle=False)
        return kept
    workload = ReviewWorkload(lines, "ids", None, ("prediction",))
    connect = functools.partial(BareClient, spec, model)
    with LoadSession({"": connect}, 1, SECONDS_A_REVIEW) as session:
        (record,) = session.run("", [workload])
    if record.failures:
        raise DataError(f"the bare engine {spec.name} fails: {record.failures[0].message}")
    answers = np.array([result.probability for outcome in record.outcomes for result in outcome])
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.npy")
    np.save(unfinished, answers, allow_pickle=False)
    unfinished.replace(path)
    return answers
