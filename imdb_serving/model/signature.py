"""What a graph is fed and what it gives, and how ids or texts become its inputs and its output probabilities.

Roles of inputs: `ids` are the tokens' ids; `mask` is 1 where there is a token and 0 where there is padding;
`additive_mask` is 0 there and -1e9; `types` are 0; `positions` count from 0; `lengths` are how many tokens each sample
has; `label` is 0, of programs that compute a cost as well; `text` is the text itself. `axes` says how an input lies: N
samples, L places, 1 an axis of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

Role = Literal["ids", "mask", "additive_mask", "types", "positions", "lengths", "label", "text"]
ROLES: tuple[str, ...] = get_args(Role)
Gives = Literal["probabilities", "logits", "probability", "logit", "maps"]
GIVES: tuple[str, ...] = get_args(Gives)
MASKED = -1e9

Ids = NDArray[np.int64]
Sample = Ids | str
"""One sample as an engine takes it: its ids, at least one, or its text."""

Probabilities = NDArray[np.float32]
"""Of each class, shape [samples, classes]."""


class Input(msgspec.Struct, frozen=True):
    """An input of a graph. `ragged` ones are Paddle's LoD tensors: samples after one another, with their ends."""

    name: str
    role: Role
    dtype: str = "int64"
    axes: str = "NL"
    ragged: bool = False


class Signature(msgspec.Struct, frozen=True):
    """Inputs, and the output that counts.

    `gives` says what that holds: `probabilities` of classes, `logits` of classes, one `probability` or `logit` of the
    second of two classes, or `maps` from class to probability (scikit-learn's, as skl2onnx writes them). `length` is
    how many places every input has, 0 for as many as there are tokens, but `least`.
    """

    inputs: tuple[Input, ...]
    output: str
    gives: Gives = "probabilities"
    length: int = 0
    least: int = 1

    @property
    def main(self) -> Input:
        """The input that the ids or the text go into."""
        return next(one for one in self.inputs if one.role in {"ids", "text"})

    @property
    def reads_text(self) -> bool:
        """True where the graph has its tokenizer within."""
        return self.main.role == "text"

    @property
    def is_plain(self) -> bool:
        """True for a graph of one input, int64 ids [N, L], that gives probabilities: nothing need be done."""
        return self == Signature((Input(self.main.name, "ids"),), self.output)


TRAINED_GRAPH = Signature((Input("words", "ids"),), "prediction")
"""The ONNX graph of a net that was trained here."""

TRAINED_PROGRAM = Signature(
    (Input("words", "ids"), Input("mask", "additive_mask", "float32", "N1L")), "", "probabilities"
)
"""Its Paddle program; a bag of words has no mask."""


def fill(
    signature: Signature, samples: Sequence[Sample], pad_id: int, multiple: int = 1, most: int = 0
) -> dict[str, NDArray[Any]]:
    """Return the inputs of a graph for samples that are computed together, by name.

    Shorter ones are padded to the longest, rounded up to a multiple but not beyond `most`, or to a fixed length.
    """
    if signature.reads_text:
        return {signature.main.name: _laid_out(np.array(samples, dtype=object), signature.main.axes)}
    ids: list[Ids] = list(samples)  # type: ignore[arg-type]
    longest = max(map(len, ids))
    if multiple > 1:
        rounded = -(-longest // multiple) * multiple
        longest = max(longest, min(rounded, most or rounded))
    places = signature.length or max(longest, signature.least)
    return {one.name: _ragged(ids) if one.ragged else _input(one, ids, pad_id, places) for one in signature.inputs}


def ends(samples: Sequence[Sample]) -> list[list[int]]:
    """Return where samples end that lie after one another, as Paddle's LoD tensors have it."""
    return [[0, *np.cumsum([len(sample) for sample in samples]).tolist()]]


def _ragged(ids: Sequence[Ids]) -> NDArray[Any]:
    return np.concatenate(ids)[:, None]


def _input(one: Input, ids: Sequence[Ids], pad_id: int, longest: int) -> NDArray[Any]:
    if one.role in {"lengths", "label"}:
        counts = [len(row) if one.role == "lengths" else 0 for row in ids]
        return _laid_out(np.array(counts, dtype=one.dtype), one.axes)
    if one.role == "ids" and len(ids) == 1 and len(ids[0]) == longest:
        return _laid_out(ids[0][None].astype(one.dtype, copy=False), one.axes)
    padding = {"ids": pad_id, "additive_mask": MASKED}.get(one.role, 0)
    values = np.full((len(ids), longest), padding, dtype=one.dtype)
    for row, sample in zip(values, ids, strict=True):
        row[: len(sample)] = _values(one.role, sample)
    return _laid_out(values, one.axes)


def _values(role: Role, sample: Ids) -> Any:
    if role == "ids":
        return sample
    return {"mask": 1, "positions": np.arange(len(sample))}.get(role, 0)


def _laid_out(values: NDArray[Any], axes: str) -> NDArray[Any]:
    """Return values [N, L] or [N] with the axes in the order that an input has them, and with those of one."""
    order, letters = axes.replace("1", ""), "NL"[: values.ndim]
    if "N" not in order:  # a graph that takes one sample, without an axis for it
        values, letters = values[0], letters[1:]
    ordered = values.transpose([letters.index(axis) for axis in order])
    extents = iter(ordered.shape)
    return np.ascontiguousarray(ordered.reshape([1 if axis == "1" else next(extents) for axis in axes]))


def probabilities(output: Any, gives: Gives, samples: int) -> Probabilities:
    """Return a graph's output as probabilities [samples, classes] float32; raise `ValueError` for what is none."""
    if gives == "maps":
        output = [[one[key] for key in sorted(one)] for one in output]
    values = np.asarray(output, dtype=np.float32).reshape(samples, -1)
    if gives in {"probabilities", "maps"}:
        return values
    if gives == "logits":
        shares = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)
    if values.shape[1] != 1:
        raise ValueError(f"expected one value a sample, got {values.shape[1]}")
    second = values if gives == "probability" else 1 / (1 + np.exp(-np.clip(values, -80, 80)))
    return np.concatenate([1 - second, second], axis=1).astype(np.float32)
