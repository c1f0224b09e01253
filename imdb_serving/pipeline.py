"""The pipeline: op0 reads, op1 infers, op2 responds, each timed under its own name.

A pipeline is the handler that a server calls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from imdb_serving.engines.engine import Engine, warm_up, zeros
from imdb_serving.engines.registry import EngineSpec, make_engine
from imdb_serving.errors import RequestTimeout
from imdb_serving.messages import Reply, Request
from imdb_serving.model.bundle import Bundle
from imdb_serving.model.card import TRAINED_LABELS
from imdb_serving.reader import DEFAULT_LIMITS, Limits, Op, ReaderOp, Reading, Work
from imdb_serving.timing import Stage, Timeline

__all__ = ["InferOp", "Limits", "Op", "Pipeline", "ReaderOp", "Reading", "ResponseOp", "Work", "imdb_pipeline"]


class InferOp:
    """op1: the engine."""

    name = "op1"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, work: Work) -> None:
        work.probabilities = self._engine.run(work.reviews)


class ResponseOp:
    """op2: from probabilities to the fetched outputs."""

    name = "op2"

    def __init__(self, labels: Sequence[str] = TRAINED_LABELS) -> None:
        """Take the classes' names, in the order of their probabilities."""
        self._labels = np.array(labels)

    def run(self, work: Work) -> None:
        """Fill `outputs` with what the request fetches, each with the sample as first axis.

        `prediction` [N, classes] are the probabilities; `class` [N] is the name of the likeliest; `acc` [N, 1] is 1
        where that is the label; `cost` [N, 1] is the cross-entropy, -ln of the label's probability.
        """
        probabilities = work.probabilities
        if probabilities is None:
            raise RuntimeError("op2 runs behind an op that fills work.probabilities")
        outputs = work.outputs
        for name in work.request.fetch:
            if name == "prediction":
                outputs[name] = probabilities
            elif name == "class":
                outputs[name] = self._labels[probabilities.argmax(axis=1)]
            elif work.labels is not None:
                outputs[name] = _SCORES[name](probabilities, work.labels)


def _accuracy(probabilities: NDArray[np.float32], labels: Sequence[int]) -> NDArray[np.float32]:
    rows = probabilities.tolist()
    right = [[float(row.index(max(row)) == label)] for row, label in zip(rows, labels, strict=True)]
    return np.array(right, np.float32)


def _cost(probabilities: NDArray[np.float32], labels: Sequence[int]) -> NDArray[np.float32]:
    rows = probabilities.tolist()
    return np.array([[-math.log(max(row[label], _TINY))] for row, label in zip(rows, labels, strict=True)], np.float32)


_TINY = float(np.finfo(np.float32).tiny)
_SCORES = {"acc": _accuracy, "cost": _cost}


NEVER = 1 << 63


class Pipeline:
    """Runs a request through its ops, in order."""

    def __init__(self, ops: Sequence[Op]) -> None:
        """Take the ops; their names must differ, for they are the names of the stages."""
        names = [op.name for op in ops]
        if len(set(names)) != len(names):
            raise ValueError(f"two ops share a name: {names}")
        self.ops = tuple(ops)
        self._steps = [(op.name, op.run) for op in ops]

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of the stages, in order."""
        return tuple(op.name for op in self.ops)

    def __call__(self, request: Request, timeline: Timeline) -> Reply:
        """Return the reply to `request`; a `ServingError` of an op refuses it.

        Once the deadline has passed no further op is run, and `RequestTimeout` raised. The first op begins where the
        last stage in the timeline ended: to read a request's tensors belongs to it.
        """
        work = Work(request)
        stages = timeline.stages
        add, now = stages.append, perf_counter_ns
        begun = stages[-1].end_ns if stages else now()
        deadline = timeline.deadline_ns or NEVER
        for name, run in self._steps:
            if begun > deadline:
                raise RequestTimeout(f"the deadline passed before {name}")
            run(work)
            ended = now()
            add(Stage(name, begun, ended))
            begun = ended
        return Reply(work.outputs, stages)


def imdb_pipeline(spec: EngineSpec, bundle: Bundle | None, limits: Limits = DEFAULT_LIMITS) -> Pipeline:
    """Make the pipeline of a model with an engine of its own, warmed up."""
    engine = make_engine(spec, bundle)
    warm_up(engine, bundle.sample if bundle else zeros)
    reader = ReaderOp(Reading.of(bundle) if bundle else None, limits)
    return Pipeline([reader, InferOp(engine), ResponseOp(bundle.card.labels if bundle else TRAINED_LABELS)])
