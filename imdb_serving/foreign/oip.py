"""The Open Inference Protocol v2 as its clients speak it over HTTP: tensors as JSON, or binary. No I/O.

Specified at https://github.com/kserve/open-inference-protocol, binary tensors as Triton's extension has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from imdb_serving.errors import UNREADABLE, ConfigError, UnexpectedAnswer
from imdb_serving.protocol.oip_tensors import BYTES, HEADER_LENGTH, TYPES, tensor_values, text_bytes

__all__ = ["BYTES", "HEADER_LENGTH", "TYPES"]


class TensorInfo(NamedTuple):
    """What a model's metadata says of one input: its name, type and shape, -1 where any length is taken."""

    name: str
    datatype: str
    shape: list[int]


class Tensor(NamedTuple):
    """One input of a request; texts where the type is BYTES."""

    name: str
    datatype: str
    shape: list[int]
    values: NDArray[Any] | list[str]


class Text(NamedTuple):
    """One sample, as the inputs of a model may want it."""

    text: str
    ids: list[int]
    label: int


def inputs_of(metadata: bytes) -> list[TensorInfo]:
    """Return the inputs of a model's metadata; raise `UnexpectedAnswer` when they cannot be read."""
    try:
        return [
            TensorInfo(str(one["name"]), str(one["datatype"]), [int(length) for length in one["shape"]])
            for one in orjson.loads(metadata)["inputs"]
        ]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(f"the model's metadata cannot be read: {error!r}", UNREADABLE) from None


def wants_ids(inputs: Sequence[TensorInfo]) -> bool:
    """Tell whether any input is made of word ids."""
    return any(one.datatype != BYTES for one in inputs)


def _ones(samples: Sequence[Text]) -> list[list[int]]:
    return [[1] * len(sample.ids) for sample in samples]


_BY_NAME: tuple[tuple[str, Callable[[Sequence[Text]], list[list[int]]]], ...] = (
    ("mask", _ones),
    ("type", lambda samples: [[0] * len(sample.ids) for sample in samples]),
    ("len", lambda samples: [[len(sample.ids)] for sample in samples]),
    ("label", lambda samples: [[sample.label] for sample in samples]),
)
"""What an input is filled with whose name holds a word; any other gets word ids."""


def fill(inputs: Sequence[TensorInfo], samples: Sequence[Text]) -> list[Tensor]:
    """Return the tensors of one request: texts where the type is BYTES, else numbers, rows filled up with zeros.

    Raises `ConfigError` for a type that the protocol does not have.
    """
    return [_filled(one, samples) for one in inputs]


def _filled(info: TensorInfo, samples: Sequence[Text]) -> Tensor:
    if info.datatype == BYTES:
        texts = [sample.text for sample in samples]
        return Tensor(info.name, BYTES, [len(texts), 1] if len(info.shape) > 1 else [len(texts)], texts)
    if info.datatype not in TYPES:
        raise ConfigError(f"the model's input {info.name} has the unknown type {info.datatype}; write a request.body")
    make = next((make for word, make in _BY_NAME if word in info.name.lower()), None)
    rows = make(samples) if make else [sample.ids for sample in samples]
    values = np.zeros((len(rows), max(map(len, rows))), TYPES[info.datatype])
    for number, row in enumerate(rows):
        values[number, : len(row)] = row
    whole = values[0] if len(info.shape) == 1 and len(rows) == 1 else values  # a model that knows no batches
    return Tensor(info.name, info.datatype, list(whole.shape), whole)


def encode_json(tensors: Sequence[Tensor]) -> bytes:
    """Return the body of a request, all of it JSON."""
    inputs = [
        {
            "name": one.name,
            "datatype": one.datatype,
            "shape": one.shape,
            "data": one.values if isinstance(one.values, list) else one.values.ravel().tolist(),
        }
        for one in tensors
    ]
    return orjson.dumps({"inputs": inputs})


def encode_binary(tensors: Sequence[Tensor]) -> tuple[bytes, int]:
    """Return the body of a request with binary tensors, which asks for binary answers, and how many bytes are JSON."""
    parts = [tensor_bytes(one) for one in tensors]
    inputs = [
        {
            "name": one.name,
            "datatype": one.datatype,
            "shape": one.shape,
            "parameters": {"binary_data_size": len(part)},
        }
        for one, part in zip(tensors, parts, strict=True)
    ]
    head = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    return head + b"".join(parts), len(head)


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return a tensor's values as bytes: numbers little-endian, each text behind its length."""
    if isinstance(tensor.values, list):
        return text_bytes([text.encode("utf-8", "surrogatepass") for text in tensor.values])
    return tensor.values.tobytes()


def decode(body: bytes, header_length: str) -> Any:
    """Return an answer as its JSON has it, binary outputs as lists of `data`; raise `UnexpectedAnswer` for none."""
    try:
        if not header_length:
            return orjson.loads(body)
        at = int(header_length)
        answer = orjson.loads(body[:at])
        for output in answer["outputs"]:
            size = output.get("parameters", {}).get("binary_data_size")
            if size is not None:
                if len(part := body[at : at + size]) != size:
                    raise ValueError(f"output {output['name']} has {len(part)} bytes of {size}")
                output["data"] = tensor_values(output["datatype"], part)
                at += size
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedAnswer(f"the answer cannot be read: {error!r}", UNREADABLE) from None
    return answer
