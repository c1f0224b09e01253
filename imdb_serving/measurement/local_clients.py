"""Clients without a server, of the model alone and of the pipeline in this process; and the bare engine's answers."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns

import numpy as np

import imdb_serving
from imdb_serving.cell import digest
from imdb_serving.clients.base import Client
from imdb_serving.config import whole_file
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import DataError
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.load.closed_loop import Share
from imdb_serving.load.workload import ReviewWorkload
from imdb_serving.measurement.measure import Probabilities
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.model.bundle import Bundle, open_bundle
from imdb_serving.pipeline import InferOp, Pipeline, ReaderOp, Work, imdb_pipeline
from imdb_serving.protocol import json_bodies
from imdb_serving.text.formats import Line
from imdb_serving.timing import Stage, Timeline


@functools.lru_cache(maxsize=1)
def _pipeline(spec: EngineSpec, model: Path | None) -> Pipeline:
    """Make the pipeline, once a process: the local clients of one process share its engine."""
    bundle: Bundle | None = open_bundle(model) if model else None
    return imdb_pipeline(spec, bundle)


class InprocClient(Client):
    """Runs the pipeline in the calling thread: what a request costs without a server."""

    def __init__(self, spec: EngineSpec, model: Path | None) -> None:
        """Make the pipeline, which takes seconds for Paddle."""
        self._spec = spec
        self._pipeline = _pipeline(spec, model)

    def call(self, request: Request) -> Reply:
        """Return the pipeline's reply; its stages are the ops."""
        return self._pipeline(request, Timeline())

    def hello(self) -> ServerInfo:
        version = imdb_serving.__version__
        return ServerInfo("inproc", version, self._spec.name, "", 1, "thread", (), (), 0, os.getpid())

    def close(self) -> None:
        """Do nothing: the engine stays with the process."""


class BareClient(InprocClient):
    """Runs the engine alone on feeds made beforehand. Only its stage `op1` counts."""

    def call(self, request: Request) -> Reply:
        begun = perf_counter_ns()
        work = Work(request)
        ops = self._pipeline.ops
        next(op for op in ops if isinstance(op, ReaderOp)).run(work)
        infer = next(op for op in ops if isinstance(op, InferOp))
        laid_out = perf_counter_ns()
        infer.run(work)
        stages = [Stage("op0", begun, laid_out), Stage("op1", laid_out, perf_counter_ns())]
        assert work.probabilities is not None  # noqa: S101 - op1 has run
        return Reply({"prediction": np.asarray(work.probabilities)}, stages)


class JsonClient(InprocClient):
    """Runs the pipeline behind JSON bodies that nobody sends: what the HTTP service's encoding costs by itself."""

    def call(self, request: Request) -> Reply:
        """Pass the request and the reply through their bodies; stages as HTTP's, less its ways and waits."""
        begun = perf_counter_ns()
        body = json_bodies.encode_request(request)
        encoded = perf_counter_ns()
        received, form = json_bodies.decode_request(body)
        parsed = perf_counter_ns()
        reply = self._pipeline(received, Timeline())
        ready = perf_counter_ns()
        answer = json_bodies.encode_reply(reply, form)
        arrived = perf_counter_ns()
        outputs = json_bodies.decode_reply(answer, request.samples)
        before = [Stage("encode", begun, encoded), Stage("parse", encoded, parsed)]
        after = [Stage("reply", ready, arrived), Stage("decode", arrived, perf_counter_ns())]
        return Reply(outputs, [*before, *reply.stages, *after])


FOLDER = "answers"
SECONDS_A_REVIEW = 10.0


def reference_answers(
    folder: Path, spec: EngineSpec, model: Path | None, model_id: str, lines: Sequence[Line]
) -> Probabilities:
    """Return the bare engine's probabilities [lines, classes], computed once for a sweep's folder.

    Raises `DataError` when the engine fails.
    """
    if spec.facts.timed:  # its answers are at once what they are after some time
        spec = replace(spec, service_time_ms=0.0)
    engine = (spec.name, spec.math_threads, spec.variant)
    path = folder / FOLDER / f"{digest(engine, model_id, 'of all classes', [line.content for line in lines])}.npy"
    if path.is_file():
        kept: Probabilities = np.load(path, allow_pickle=False)
        return kept
    workload = ReviewWorkload.plain(lines, fetch=("prediction",))
    connect = functools.partial(BareClient, spec, model)
    with LoadSession({"": connect}, 1, SECONDS_A_REVIEW) as session:
        (record,) = session.run("", [Share.whole(workload)])
    if record.failures:
        raise DataError(f"the bare engine {spec.name} fails: {record.failures[0].message}")
    answers = np.array([result.shares for outcome in record.outcomes for result in outcome])
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, answers, allow_pickle=False)
    return answers
