"""Pipelines that do one thing wrong, for servers of the proofs: `--pipeline faulty_pipelines:NAME`."""

from __future__ import annotations

import threading
import time
from typing import Any

from imdb_serving.pipeline import Pipeline, imdb_pipeline

_made = threading.Lock()


class Wrong:
    """Answers 0.9 instead of what the engine said."""

    name = "wrong"

    def run(self, work: Any) -> None:
        work.outputs["prediction"] = work.outputs["prediction"] * 0 + 0.9


class Slow:
    """Keeps one request for longer than anybody waits."""

    name = "slow"

    def __init__(self) -> None:
        self._left = 20

    def run(self, work: Any) -> None:
        self._left -= 1
        if self._left == 0:
            time.sleep(1.5)


class Round:
    """Rounds the probabilities to two decimals: an op of one's own."""

    name = "round"

    def run(self, work: Any) -> None:
        work.outputs["prediction"] = work.outputs["prediction"].round(2)


def wrong_in_one_worker(spec: Any, bundle: Any) -> Pipeline:
    """Only the worker that is made first answers wrongly."""
    ops = list(imdb_pipeline(spec, bundle).ops)
    return Pipeline([*ops, Wrong()] if _made.acquire(blocking=False) else ops)


def one_late(spec: Any, bundle: Any) -> Pipeline:
    return Pipeline([*imdb_pipeline(spec, bundle).ops, Slow()])


def rounded(spec: Any, bundle: Any) -> Pipeline:
    return Pipeline([*imdb_pipeline(spec, bundle).ops, Round()])
