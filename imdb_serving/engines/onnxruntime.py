"""The engine `onnxruntime`: the bundle's ONNX graph. It releases the interpreter lock while it runs.

With one math thread a session computes in the thread that calls it, and several threads may call it at once: then the
workers of a process share a session, and with it the weights. Two threads in one session are as fast as in two. With
more math threads each engine has a session and threads of its own.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from imdb_serving.engines.engine import Probabilities, Words, check_ids, one_by_one
from imdb_serving.errors import BundleError

if TYPE_CHECKING:
    from imdb_serving.engines.registry import EngineSpec
    from imdb_serving.model.bundle import Bundle


class OnnxRuntimeEngine:
    """A session of a graph that maps `words` [1, L] int64 to `prediction` [1, 2]."""

    lengths: Sequence[int] = (1, 64, 256, 1024, 2048)

    def __init__(self, session: onnxruntime.InferenceSession, rows: int) -> None:
        """Take the session, and how many rows its word vectors have."""
        self._session, self._rows = session, rows
        self._input = session.get_inputs()[0].name

    def run(self, reviews: Sequence[Words]) -> Probabilities:
        return one_by_one(self._answer, reviews)

    def _answer(self, review: Words) -> Probabilities:
        check_ids(review, self._rows)
        probabilities: Probabilities = self._session.run(None, {self._input: np.ascontiguousarray(review)[None]})[0]
        return probabilities


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
        raise BundleError(f"ONNX Runtime cannot run {graph}: {error}; train the model again") from error


_opening = threading.Lock()
_shared = functools.lru_cache(maxsize=2)(lambda graph, _checksum: open_session(graph, 1))


def make(spec: EngineSpec, bundle: Bundle) -> OnnxRuntimeEngine:
    """Make one."""
    rows = bundle.card.pad_id + 1
    if spec.math_threads > 1:
        return OnnxRuntimeEngine(open_session(bundle.graph, spec.math_threads), rows)
    with _opening:  # workers that start at once shall not each load the graph
        return OnnxRuntimeEngine(_shared(bundle.graph, bundle.card.checksum), rows)
