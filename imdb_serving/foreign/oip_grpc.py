"""The messages of the Open Inference Protocol v2 over gRPC. No I/O.

Restates what a request needs of https://github.com/kserve/open-inference-protocol (`open_inference_grpc.proto`);
answers are read in the form that they have as JSON.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import orjson

from imdb_serving.errors import UNREADABLE, UnexpectedAnswer
from imdb_serving.foreign.oip import Tensor, tensor_bytes
from imdb_serving.protocol.oip_tensors import BYTES, tensor_values
from imdb_serving.protocol.protobuf import Field, message_classes

SERVICE = "/inference.GRPCInferenceService/"
INFER, METADATA = f"{SERVICE}ModelInfer", f"{SERVICE}ModelMetadata"

_TENSOR = (("name", 1, "string"), ("datatype", 2, "string"), ("shape", 3, "int64*"))
_CONTENTS = ("bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes")
_CONTENTS_TYPES = ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "bytes")
_MESSAGES: dict[str, tuple[Field, ...]] = {
    "InferTensorContents": tuple(
        (f"{name}_contents", number, f"{kind}*")
        for number, (name, kind) in enumerate(zip(_CONTENTS, _CONTENTS_TYPES, strict=True), start=1)
    ),
    "InferTensor": (*_TENSOR, ("contents", 5, "InferTensorContents")),
    "ModelInferRequest": (("model_name", 1, "string"), ("inputs", 5, "InferTensor*"), ("raw", 7, "bytes*")),
    "ModelInferResponse": (("model_name", 1, "string"), ("outputs", 5, "InferTensor*"), ("raw", 6, "bytes*")),
    "ModelMetadataRequest": (("name", 1, "string"),),
    "TensorMetadata": _TENSOR,
    "ModelMetadataResponse": (("name", 1, "string"), ("inputs", 4, "TensorMetadata*")),
}
"""Fields by message: name, number and type, repeated where a star follows. Others are skipped when read."""

_FIELDS = {
    "BOOL": "bool", "INT8": "int", "INT16": "int", "INT32": "int", "INT64": "int64", "UINT8": "uint", "UINT16": "uint",
    "UINT32": "uint", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64", BYTES: "bytes",
}  # fmt: skip
"""Where the contents of a type are, without `_contents`; a type that is not here is sent raw."""


@functools.cache
def _messages() -> SimpleNamespace:
    return message_classes("inference", _MESSAGES)


def encode(model: str, tensors: Sequence[Tensor], *, is_raw: bool) -> bytes:
    """Return the message of a request: tensors by type, or as raw bytes, which a type without a field of its own is."""
    request = _messages().ModelInferRequest(model_name=model)
    is_raw = is_raw or any(one.datatype not in _FIELDS for one in tensors)
    for one in tensors:
        entry = request.inputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
        if is_raw:
            request.raw.append(tensor_bytes(one))
        elif isinstance(one.values, list):
            entry.contents.bytes_contents.extend(text.encode("utf-8", "surrogatepass") for text in one.values)
        else:
            getattr(entry.contents, f"{_FIELDS[one.datatype]}_contents").extend(one.values.ravel().tolist())
    return bytes(request.SerializeToString())


def encode_metadata(model: str) -> bytes:
    """Return the message that asks what inputs a model has."""
    return bytes(_messages().ModelMetadataRequest(name=model).SerializeToString())


def decode_metadata(body: bytes) -> bytes:
    """Return a model's metadata as JSON; raise `UnexpectedAnswer` when they cannot be read."""
    read = _read("ModelMetadataResponse", body)
    inputs = [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in read.inputs]
    return orjson.dumps({"name": read.name, "inputs": inputs})


def decode(body: bytes) -> dict[str, Any]:
    """Return an answer as its JSON would be, with the outputs' `data`; raise `UnexpectedAnswer` for none."""
    read = _read("ModelInferResponse", body)
    outputs = []
    try:
        for number, one in enumerate(read.outputs):
            if read.raw:
                data = tensor_values(one.datatype, read.raw[number])
            else:
                data = list(getattr(one.contents, f"{_FIELDS[one.datatype]}_contents"))
                data = [value.decode("utf-8", "replace") for value in data] if one.datatype == BYTES else data
            outputs.append({"name": one.name, "datatype": one.datatype, "shape": list(one.shape), "data": data})
    except (KeyError, IndexError, ValueError) as error:
        raise UnexpectedAnswer(f"the answer cannot be read: {error!r}", UNREADABLE) from None
    return {"model_name": read.model_name, "outputs": outputs}


def _read(message: str, body: bytes) -> Any:
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - as above

    try:
        return getattr(_messages(), message).FromString(body)
    except DecodeError as error:
        raise UnexpectedAnswer(f"the answer is no {message}: {error}", UNREADABLE) from None
