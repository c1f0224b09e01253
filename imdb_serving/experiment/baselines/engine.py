"""The engine behind a baseline's server: one of ours, called with the word ids of one review, nothing around it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from imdb_serving.engines.engine import warm_up
from imdb_serving.engines.registry import EngineSpec, make_engine
from imdb_serving.engines.tuning import resolve
from imdb_serving.model.bundle import open_bundle

ENGINE, MODEL = "BASELINE_ENGINE", "BASELINE_MODEL"
"""Environment variables that tell a baseline's processes what to run."""


def load() -> Callable[[list[int]], list[float]]:
    """Return a function from the word ids of one review to its probabilities, as servers of JSON need it."""
    bundle = open_bundle(Path(os.environ[MODEL])) if os.environ.get(MODEL) else None
    engine = make_engine(resolve(EngineSpec(os.environ[ENGINE]), bundle), bundle)
    warm_up(engine)

    def predict(words: list[int]) -> list[float]:
        probabilities: list[float] = engine.run([np.array(words or [0], dtype=np.int64)])[0].tolist()
        return probabilities

    return predict
