"""The four published nets: bag of words, CNN, LSTM and GRU. The one module that imports Paddle, without its messages.

Sizes are those of the published benchmark: embedding 128, hidden 128, second hidden 96, window 3, 2 classes.
`forward` returns logits [N, 2] while a net is trained, and probabilities [N, 2] (negative, positive) in `eval` mode,
as the exported model is.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("GLOG_minloglevel", "2")
_root = logging.getLogger()
_level, _handlers = _root.level, list(_root.handlers)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import paddle
    from paddle import inference, nn
    from paddle.base.proto import framework_pb2 as framework
    from paddle.nn import functional

# Importing Paddle sets up logging for the whole process; that is the user's to decide.
_root.setLevel(_level)
_root.handlers[:] = _handlers
# Paddle would answer SIGTERM with a page of C++ frames; ending cleanly is this package's own business.
paddle.disable_signal_handler()

__all__ = ["MASKED", "NETS", "Feed", "framework", "functional", "inference", "nn", "pad", "paddle"]

MASKED = -1e9


class Feed(NamedTuple):
    """Padded reviews: `words` [N, L], `mask` [N, 1, L]."""

    words: NDArray[np.int64]
    mask: NDArray[np.float32]


def pad(reviews: Sequence[NDArray[np.int64]], pad_id: int, multiple: int = 1) -> Feed:
    """Pad reviews to the longest of them, rounded up to a multiple. An empty review is one padding word, not masked."""
    lengths = [max(len(review), 1) for review in reviews]
    longest = -(-max(lengths) // multiple) * multiple
    words = np.full((len(reviews), longest), pad_id, dtype=np.int64)
    mask = np.full((len(reviews), 1, longest), MASKED, dtype=np.float32)
    for row, (review, length) in enumerate(zip(reviews, lengths, strict=True)):
        words[row, : len(review)] = review
        mask[row, 0, :length] = 0.0
    return Feed(words, mask)


Tensor = Any  # paddle.Tensor; Paddle is not typed

EMBEDDING = 128
HIDDEN = 128
SECOND_HIDDEN = 96
WINDOW = 3
CLASSES = 2


class _Embedding(nn.Embedding):  # type: ignore[misc]
    """Word vectors: the vocabulary, the unknown word, and a padding word that is always zero."""

    def __init__(self, words: int) -> None:
        initial = paddle.ParamAttr(initializer=nn.initializer.Uniform(-0.1, 0.1))
        super().__init__(words + 2, EMBEDDING, padding_idx=words + 1, sparse=True, weight_attr=initial)


def _pool_over_time(steps: Tensor, mask: Tensor) -> Tensor:
    """Return the maximum over the unmasked steps; `steps` [N, C, L], `mask` [N, 1, L], result [N, C].

    `adaptive_max_pool1d` because the gradient of `max(axis)` is several times slower on a CPU. A tanh belongs behind
    the pool: `max(tanh(x)) = tanh(max(x))`, and it then works on L times fewer values.
    """
    return functional.adaptive_max_pool1d(steps + mask, 1).squeeze(-1)


class _HighestWindow(paddle.autograd.PyLayer):  # type: ignore[misc]
    """The maximum over time of a convolution over windows of three steps, without its bias.

    `steps` [N, L, C], `weight` [3 C, O] with the first step's part first, `mask` [N, 1, L]; the result is [N, O]. The
    gradient reaches only the windows that are the highest, one a review and output: as a sparse matrix it takes a
    twentieth of the time of Paddle's convolution and maximum.
    """

    @staticmethod
    def forward(context: Any, steps: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        none = paddle.zeros([steps.shape[0], 1, steps.shape[2]])
        before, after = paddle.concat([none, steps[:, :-1]], 1), paddle.concat([steps[:, 1:], none], 1)
        found = paddle.matmul(paddle.concat([before, steps, after], 2), weight) + mask.transpose([0, 2, 1])
        places = found.argmax(1)
        context.save_for_backward(steps, weight, places)
        return paddle.take_along_axis(found, places.unsqueeze(1), 1).squeeze(1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        steps, weight, places = (tensor.numpy() for tensor in context.saved_tensor())
        (rows, length, width), outputs = steps.shape, places.shape[1]
        chosen = _chosen_steps(places, gradient.numpy(), length)
        of_weight = (chosen @ steps.reshape(-1, width)).reshape(WINDOW, outputs, width)
        of_steps = chosen.T @ weight.reshape(WINDOW, width, outputs).swapaxes(1, 2).reshape(-1, width)
        return (
            paddle.to_tensor(of_steps.reshape(rows, length, width)),
            paddle.to_tensor(of_weight.swapaxes(1, 2).reshape(weight.shape)),
            None,
        )


def _chosen_steps(places: NDArray[np.int64], gradient: NDArray[np.float32], length: int) -> Any:
    """Return the gradient [N, O] by the steps of the windows at `places` [N, O], as a sparse matrix [3 O, N L].

    What lies beyond the first or the last step is zero, and has no gradient.
    """
    from scipy.sparse import csr_array  # noqa: PLC0415 - a server that answers with a trained net does without

    (rows, outputs), reach = places.shape, WINDOW // 2
    at = places[:, None] + np.arange(-reach, reach + 1)[:, None]  # [N, 3, O]
    inside = (at >= 0) & (at < length)
    values = np.where(inside, gradient[:, None], np.float32(0))
    at = np.where(inside, at, 0) + length * np.arange(rows)[:, None, None]
    taps = np.broadcast_to(np.arange(WINDOW * outputs).reshape(WINDOW, outputs), at.shape)
    return csr_array((values.ravel(), (taps.ravel(), at.ravel())), shape=(WINDOW * outputs, rows * length))


class _Net(nn.Layer):  # type: ignore[misc]
    """The layers that all nets end in."""

    def _answer(self, logits: Tensor) -> Tensor:
        return logits if self.training else functional.softmax(logits, axis=-1)


class BagOfWords(_Net):
    """Sum of the word vectors, then two tanh layers."""

    inputs = ("words",)

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding = _Embedding(words)
        self.first = nn.Linear(EMBEDDING, HIDDEN)
        self.second = nn.Linear(HIDDEN, SECOND_HIDDEN)
        self.out = nn.Linear(SECOND_HIDDEN, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        """Return the answer [N, 2] for `words` [N, L]."""
        summed = paddle.tanh(self.embedding(words).sum(1))
        return self._answer(self.out(paddle.tanh(self.second(paddle.tanh(self.first(summed))))))


class Cnn(_Net):
    """Convolution over windows of three words, tanh, maximum over time, one linear layer."""

    inputs = ("words", "mask")

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding = _Embedding(words)
        self.convolution = nn.Conv1D(EMBEDDING, HIDDEN, WINDOW, padding=WINDOW // 2)
        self.second = nn.Linear(HIDDEN, SECOND_HIDDEN)
        self.out = nn.Linear(SECOND_HIDDEN, CLASSES)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Return the answer [N, 2] for `words` [N, L] and `mask` [N, 1, L]; what is exported has the convolution."""
        pooled = self.pooled(self.embedding(words), mask)
        return self._answer(self.out(self.second(paddle.tanh(pooled))))

    def pooled(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return the maximum over time of the convolution [N, O] of word vectors [N, L, C]."""
        if not paddle.in_dynamic_mode():
            return _pool_over_time(self.convolution(vectors.transpose([0, 2, 1])), mask)
        weight = self.convolution.weight.transpose([2, 1, 0]).reshape([WINDOW * EMBEDDING, HIDDEN])
        return _HighestWindow.apply(vectors, weight, mask) + self.convolution.bias


class _Recurrent(_Net):
    """A recurrent layer read forwards, maximum over time, tanh, one tanh layer."""

    inputs = ("words", "mask")

    def __init__(self, words: int, cell: Callable[[int, int], Any]) -> None:
        super().__init__()
        self.embedding = _Embedding(words)
        self.recurrent = cell(EMBEDDING, HIDDEN)
        self.second = nn.Linear(HIDDEN, SECOND_HIDDEN)
        self.out = nn.Linear(SECOND_HIDDEN, CLASSES)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Return the answer [N, 2] for `words` [N, L] and `mask` [N, 1, L]."""
        steps, _ = self.recurrent(self.embedding(words))
        pooled = paddle.tanh(_pool_over_time(steps.transpose([0, 2, 1]), mask))
        return self._answer(self.out(paddle.tanh(self.second(pooled))))


class Lstm(_Recurrent):
    """The recurrent net with an LSTM."""

    def __init__(self, words: int) -> None:
        super().__init__(words, nn.LSTM)


class Gru(_Recurrent):
    """The recurrent net with a GRU."""

    def __init__(self, words: int) -> None:
        super().__init__(words, nn.GRU)


NETS: Mapping[str, Callable[[int], Any]] = {"bow": BagOfWords, "cnn": Cnn, "lstm": Lstm, "gru": Gru}
"""The nets by their published names; each is made from the number of words in the vocabulary."""
