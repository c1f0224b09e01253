"""The engine `folded`: the CNN with its convolution folded into the word vectors.

A convolution is linear, and so is a look-up: `conv(E)[t] = W0 E[w(t-1)] + W1 E[w(t)] + W2 E[w(t+1)]`. Three tables
`E Wk` [words, 128], made once, turn it into three look-ups and two additions a step; the maximum over time follows,
then the two small layers. The kernel runs without the interpreter lock, and all workers of a process share the tables.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from imdb_serving.engines.engine import Probabilities, Words, check_ids, one_by_one
from imdb_serving.model.export import read_weights

if TYPE_CHECKING:
    from imdb_serving.engines.registry import EngineSpec
    from imdb_serving.model.bundle import Bundle

Floats = NDArray[np.float32]


class Tables(NamedTuple):
    """The folded weights: what the word before, the word itself and the word behind add to a step, [words, 128]."""

    before: Floats
    here: Floats
    behind: Floats
    second: Floats
    second_bias: Floats
    out: Floats
    out_bias: Floats


def fold(weights: dict[str, Floats]) -> Tables:
    """Return the tables of a CNN with a window of three words."""
    vectors, kernel = weights["embedding.weight"], weights["convolution.weight"]
    before, here, behind = (np.ascontiguousarray(vectors @ kernel[:, :, place].T) for place in range(3))
    here += weights["convolution.bias"]
    layers = (weights[f"{layer}.{part}"] for layer in ("second", "out") for part in ("weight", "bias"))
    return Tables(before, here, behind, *map(np.ascontiguousarray, layers))


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _pool(words: Words, before: Floats, here: Floats, behind: Floats) -> Floats:
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


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _linear(values: Floats, weight: Floats, bias: Floats) -> Floats:
    """Return `values @ weight + bias`, summed in order."""
    result = bias.copy()
    for row in range(len(values)):
        for column in range(len(result)):
            result[column] += values[row] * weight[row, column]
    return result


# One compilation for all callers: arrays read from a message are read-only, which numba has as a type of its own.
_WORDS, _VECTOR, _MATRIX = (
    numba.types.Array(kind, axes, "C", readonly=True)
    for kind, axes in ((numba.int64, 1), (numba.float32, 1), (numba.float32, 2))
)
_SIGNATURE = numba.float32[:, ::1](_WORDS, _MATRIX, _MATRIX, _MATRIX, _MATRIX, _VECTOR, _MATRIX, _VECTOR)


@numba.njit(_SIGNATURE, nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _predict(
    words: Words,
    before: Floats,
    here: Floats,
    behind: Floats,
    second: Floats,
    second_bias: Floats,
    out: Floats,
    out_bias: Floats,
) -> Floats:
    """Return one review's probabilities, shape [1, 2]."""
    pooled = np.tanh(_pool(words, before, here, behind))
    logits = _linear(_linear(pooled, second, second_bias), out, out_bias)
    shares = np.exp(logits - logits.max())
    probabilities: Floats = (shares / shares.sum()).reshape(1, 2)
    return probabilities


class FoldedEngine:
    """The kernel over one model's tables, which are shared."""

    lengths: Sequence[int] = (1, 64, 2048)

    def __init__(self, tables: Tables) -> None:
        self._tables, self._rows = tables, len(tables.here)

    def run(self, reviews: Sequence[Words]) -> Probabilities:
        return one_by_one(self._answer, reviews)

    def _answer(self, review: Words) -> Probabilities:
        check_ids(review, self._rows)
        probabilities: Probabilities = _predict(np.require(review, np.int64, ["C", "A"]), *self._tables)
        return probabilities


_folding = threading.Lock()


def _tables_of(graph: Path, checksum: str) -> Tables:
    with _folding:  # workers that start at once shall not each fold
        return _fold_once(graph, checksum)


@functools.lru_cache(maxsize=2)
def _fold_once(graph: Path, _checksum: str) -> Tables:
    return fold(read_weights(graph))


def make(_spec: EngineSpec, bundle: Bundle) -> FoldedEngine:
    """Make one. Math threads do not apply: the kernel uses the thread that calls it."""
    return FoldedEngine(_tables_of(bundle.graph, bundle.card.checksum))
