"""The engine `onnxruntime`: the bundle's ONNX graph. It releases the interpreter lock while it runs.

With one math thread a session computes in the thread that calls it, and several threads may call it at once: then the
workers of a process share a session, and with it the weights. Two threads in one session are as fast as in two. With
more math threads each engine has a session and threads of its own.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from imdb_serving.engines.engine import check_ids, one_by_one
from imdb_serving.errors import BundleError
from imdb_serving.model.signature import Ids, Probabilities, Sample, Signature, fill, probabilities

if TYPE_CHECKING:
    from imdb_serving.engines.registry import EngineSpec
    from imdb_serving.model.bundle import Bundle


class OnnxRuntimeEngine:
    """A session of a graph, which is fed as its signature says."""

    lengths: Sequence[int] = (1, 64, 256, 1024, 2048)

    def __init__(self, session: onnxruntime.InferenceSession, signature: Signature, rows: int, pad_id: int) -> None:
        """Take the session, and how many rows its word vectors have: 0 for a graph that reads text."""
        self._session, self._rows, self._pad_id = session, rows, pad_id
        self._input, self._outputs, self._gives = signature.main.name, [signature.output], signature.gives
        self._signature = signature
        self._answer: Callable[[Any], Probabilities] = self._plain if signature.is_plain else self._filled

    def run(self, reviews: Sequence[Sample]) -> Probabilities:
        return one_by_one(self._answer, reviews)

    def _plain(self, review: Ids) -> Probabilities:
        check_ids(review, self._rows)
        found: Probabilities = self._session.run(self._outputs, {self._input: np.ascontiguousarray(review)[None]})[0]
        return found

    def _filled(self, review: Sample) -> Probabilities:
        if not isinstance(review, str):
            check_ids(review, self._rows)
        return probabilities(output_of(self._session, self._signature, [review], self._pad_id), self._gives, 1)


def output_of(
    session: onnxruntime.InferenceSession, signature: Signature, reviews: Sequence[Sample], pad_id: int
) -> Any:
    """Return what a graph gives for reviews that are computed together."""
    return session.run([signature.output], fill(signature, reviews, pad_id))[0]


def open_session(graph: Path, math_threads: int) -> onnxruntime.InferenceSession:
    """Load a graph; raise `BundleError` when it cannot be run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = math_threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait for work would take the cores from clients and other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base but this
        raise BundleError(f"ONNX Runtime cannot run {graph}: {error}; make the model again") from error


_opening = threading.Lock()
_shared = functools.lru_cache(maxsize=2)(lambda graph, _checksum: open_session(graph, 1))


def make(spec: EngineSpec, bundle: Bundle) -> OnnxRuntimeEngine:
    """Make one."""
    card = bundle.card
    assert card.graph is not None  # noqa: S101 - `check_model` has looked
    if spec.math_threads > 1:
        return OnnxRuntimeEngine(open_session(bundle.graph, spec.math_threads), card.graph, card.rows, card.pad_id)
    with _opening:  # workers that start at once shall not each load the graph
        session = _shared(bundle.graph, card.checksum)
    return OnnxRuntimeEngine(session, card.graph, card.rows, card.pad_id)
