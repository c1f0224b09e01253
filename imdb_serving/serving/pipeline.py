"""A pipeline: ordered ops, each timed under its own name. It is the handler that a transport calls."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

from imdb_serving.engines.engine import warm_up
from imdb_serving.engines.registry import EngineSpec, make_engine
from imdb_serving.errors import RequestTimeout
from imdb_serving.messages import Reply, Request
from imdb_serving.model.bundle import Bundle
from imdb_serving.serving.limits import DEFAULT_LIMITS, Limits
from imdb_serving.serving.ops import InferOp, Op, ReaderOp, ResponseOp, Work
from imdb_serving.timing import Stage, Timeline

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
    """Make the IMDB pipeline with an engine of its own, warmed up."""
    engine = make_engine(spec, bundle)
    warm_up(engine)
    return Pipeline([ReaderOp(bundle.vocabulary if bundle else None, limits), InferOp(engine), ResponseOp()])
