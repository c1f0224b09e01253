"""The engine `folded`: convolutions folded into the word vectors.

A convolution is linear, and so is a look-up: `conv(E)[t] = W0 E[w(t-1)] + W1 E[w(t)] + W2 E[w(t+1)]`. Tables `E Wk`
[words, channels], made once (`folding.py`), turn it into as many look-ups and additions a step; the maximum over time
follows, then the small layers. The kernel runs without the interpreter lock, and all workers of a process share the
tables.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray

from imdb_serving.engines.engine import check_ids, one_by_one
from imdb_serving.engines.folding import ACTIVATIONS, Folded, NotFoldable, fold
from imdb_serving.model.signature import Ids, Probabilities, Sample, Signature, probabilities

if TYPE_CHECKING:
    from imdb_serving.engines.registry import EngineSpec
    from imdb_serving.model.bundle import Bundle

Floats = NDArray[np.float32]
RELU, TANH, SIGMOID, SOFTMAX = (ACTIVATIONS[name] for name in ("Relu", "Tanh", "Sigmoid", "Softmax"))


def _can_cache() -> bool:
    """Tell whether numba has a folder for what it compiles: the package's, the user's, or NUMBA_CACHE_DIR.

    Where it has none, every process compiles the kernel again, which takes it some seconds.
    """
    try:
        numba.njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


CACHE = _can_cache()


@numba.njit(nogil=True, cache=CACHE)  # type: ignore[untyped-decorator]
def _activate(values: Floats, activation: int) -> None:
    """Apply an activation of `folding.ACTIVATIONS` in place."""
    if activation == RELU:
        for place in range(len(values)):
            values[place] = max(values[place], np.float32(0))
    elif activation == TANH:
        for place in range(len(values)):
            values[place] = np.tanh(values[place])
    elif activation == SIGMOID:
        for place in range(len(values)):
            values[place] = 1 / (1 + np.exp(-values[place]))
    elif activation == SOFTMAX:
        shares = np.exp(values - values.max())
        values[:] = shares / shares.sum()


@numba.njit(nogil=True, cache=CACHE)  # type: ignore[untyped-decorator]
def _pool(words: Ids, tables: Floats, left: int, right: int) -> Floats:
    """Return the maximum over the steps of the look-ups' sum; `tables` are [window, words, channels]."""
    window, _, channels = tables.shape
    best = np.full(channels, -np.inf, dtype=np.float32)
    for step in range(-left, len(words) + right - window + 1):
        total = np.zeros(channels, dtype=np.float32)
        for place in range(window):
            if 0 <= step + place < len(words):
                row = tables[place, words[step + place]]
                for channel in range(channels):
                    total[channel] += row[channel]
        for channel in range(channels):
            best[channel] = total[channel] if total[channel] > best[channel] else best[channel]
    return best


@numba.njit(nogil=True, cache=CACHE)  # type: ignore[untyped-decorator]
def _linear(values: Floats, weight: Floats, bias: Floats) -> Floats:
    """Return `values @ weight + bias`, summed in order."""
    result = bias.copy()
    for row in range(len(values)):
        for column in range(len(result)):
            result[column] += values[row] * weight[row, column]
    return result


@numba.njit(nogil=True, cache=CACHE)  # type: ignore[untyped-decorator]
def _predict_any(words: Ids, branches: Any, activation: int, layers: Any) -> Floats:
    """Return one review's output, shape [1, classes]."""
    size = 0
    for branch in branches:
        size += len(branch.bias)
    pooled, begin = np.empty(size, dtype=np.float32), 0
    for branch in branches:
        part = _pool(words, branch.tables, branch.left, branch.right) + branch.bias
        _activate(part, branch.activation)
        pooled[begin : begin + len(part)] = part
        begin += len(part)
    _activate(pooled, activation)
    for layer in layers:
        pooled = _linear(pooled, layer.weight, layer.bias)
        _activate(pooled, layer.activation)
    return pooled.reshape(1, -1)


@numba.njit(nogil=True, cache=CACHE)  # type: ignore[untyped-decorator]
def _pool_of_three(words: Ids, before: Floats, here: Floats, behind: Floats) -> Floats:
    """Return the maximum over the steps of the three look-ups' sum, shape [128]."""
    steps, channels = len(words), here.shape[1]
    best = np.full(channels, -np.inf, dtype=np.float32)
    nothing = np.zeros(channels, dtype=np.float32)
    for step in range(steps):
        left = before[words[step - 1]] if step > 0 else nothing
        middle = here[words[step]]
        right = behind[words[step + 1]] if step < steps - 1 else nothing
        for channel in range(channels):
            value = left[channel] + middle[channel] + right[channel]
            best[channel] = value if value > best[channel] else best[channel]
    return best


# One compilation for all callers: arrays read from a message are read-only, which numba has as a type of its own.
_WORDS, _VECTOR, _MATRIX = (
    numba.types.Array(kind, axes, "C", readonly=True)
    for kind, axes in ((numba.int64, 1), (numba.float32, 1), (numba.float32, 2))
)
_SIGNATURE = numba.float32[:, ::1](_WORDS, _MATRIX, _MATRIX, _MATRIX, _MATRIX, _VECTOR, _MATRIX, _VECTOR)


@numba.njit(_SIGNATURE, nogil=True, cache=CACHE)  # type: ignore[untyped-decorator]
def _predict_usual(
    words: Ids,
    before: Floats,
    here: Floats,
    behind: Floats,
    second: Floats,
    second_bias: Floats,
    out: Floats,
    out_bias: Floats,
) -> Floats:
    """Return one review's probabilities, shape [1, 2]."""
    pooled = np.tanh(_pool_of_three(words, before, here, behind))
    logits = _linear(_linear(pooled, second, second_bias), out, out_bias)
    shares = np.exp(logits - logits.max())
    probabilities: Floats = (shares / shares.sum()).reshape(1, 2)
    return probabilities


def _usual(folded: Folded) -> tuple[Floats, ...] | None:
    """Return the arguments of the kernel for the published net, for a graph that is like it; None for any other.

    It is a fifth faster than the kernel for all, whose arguments are of any number.
    """
    window, behind = folded.branches[0], [layer.activation for layer in folded.layers]
    shape = len(folded.branches), len(window.tables), window.left, window.right, window.activation, folded.activation
    if (shape, behind) != ((1, 3, 1, 1, 0, TANH), [0, SOFTMAX]):
        return None
    before, here, after = window.tables
    dense = (value for layer in folded.layers for value in (layer.weight, layer.bias))
    return before, here + window.bias, after, *dense


class FoldedEngine:
    """The kernel over one model's tables, which are shared."""

    lengths: Sequence[int] = (1, 64, 2048)

    def __init__(self, kernel: Kernel, signature: Signature, rows: int, pad_id: int) -> None:
        """Take a kernel with its tables, what the graph gives, and how many ids there are."""
        (self._predict, self._tables), self._gives, self._rows = kernel, signature.gives, rows
        self._padding = np.full(signature.least, pad_id, dtype=np.int64)

    def run(self, reviews: Sequence[Sample]) -> Probabilities:
        return one_by_one(self._answer, reviews)

    def _answer(self, review: Any) -> Probabilities:
        check_ids(review, self._rows)
        if len(review) < len(self._padding):
            review = np.concatenate([review, self._padding[len(review) :]])
        output: Probabilities = self._predict(np.require(review, np.int64, ["C", "A"]), *self._tables)
        return output if self._gives == "probabilities" else probabilities(output, self._gives, 1)


Kernel = tuple[Callable[..., Probabilities], tuple[Any, ...]]
"""A kernel, and what it takes behind the ids."""

_folding = threading.Lock()


@functools.lru_cache(maxsize=2)
def _kernel(graph: Path, signature: Signature, _checksum: str) -> Kernel:
    folded = fold(graph, signature)
    usual = _usual(folded)
    return (_predict_usual, usual) if usual else (_predict_any, tuple(folded))


def make(_spec: EngineSpec, bundle: Bundle) -> FoldedEngine:
    """Make one. Math threads do not apply: the kernel uses the thread that calls it."""
    card = bundle.card
    if card.graph is None:
        raise NotFoldable("there is no ONNX graph to recognise")
    with _folding:  # workers that start at once shall not each fold
        kernel = _kernel(bundle.graph, card.graph, card.checksum)
    return FoldedEngine(kernel, card.graph, card.rows, card.pad_id)
