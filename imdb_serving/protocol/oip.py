"""The Open Inference Protocol v2 at our HTTP service: requests in, answers out, what it says of itself. No I/O.

Specified at https://github.com/kserve/open-inference-protocol; binary tensors and the model's configuration as Triton
has them. A model has one input for ids (INT64) or texts (BYTES); a mask or lengths may come beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import orjson

from imdb_serving.errors import BadRequest
from imdb_serving.messages import MAX_FEEDS, Array, Reply, Request, ServerInfo, Tensor
from imdb_serving.protocol.oip_tensors import BYTES, TYPES, text_bytes, texts_in

ROOT = "/v2"
LIVE, READY = f"{ROOT}/health/live", f"{ROOT}/health/ready"
MODELS = f"{ROOT}/models/"
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
VERSION = "1"
MAX_BATCH = 4096
OUTPUTS = ("prediction", "class")
"""What is answered with where a request does not say."""

TEXT_INPUTS = ("text", "TEXT")
"""Further names under which a text is taken."""

_INTEGERS = {name for name in TYPES if "INT" in name}


class Asked(NamedTuple):
    """How a request was written, which decides how its answer is: its id, the model, and which outputs are binary."""

    model: str
    id: str
    binary: Mapping[str, bool]


def is_infer(path: str) -> bool:
    """Tell whether a path is one of predictions."""
    return path.startswith(MODELS) and path.endswith("/infer") and _INFER.fullmatch(path) is not None


def model_in(path: str) -> tuple[str, str]:
    """Return the model and the version that a path of predictions names."""
    found = _INFER.fullmatch(path)
    return (found[1], found[2] or VERSION) if found else ("", "")


def decode_request(body: bytes, header_length: str, model: str) -> tuple[Request, Asked]:
    """Return the request in a body, and how it was written; raise `BadRequest` for what is none."""
    head, tensors = _parts(body, header_length)
    try:
        message: Any = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("inputs"), list) or not message["inputs"]:
        raise BadRequest('the body must be an object with a list of "inputs"')
    if len(message["inputs"]) > MAX_FEEDS:
        raise BadRequest(f"a request may have at most {MAX_FEEDS} inputs")
    feed, at = {}, 0
    for one in message["inputs"]:
        name, tensor, used = _input(one, tensors[at:])
        at += used
        if name in feed:
            raise BadRequest(f"two inputs are called {name!r}")
        feed[name] = tensor
    if at != len(tensors):
        raise BadRequest(f"the inputs describe {at} bytes of binary tensors; {len(tensors)} follow")
    fetch, binary = _outputs(message)
    samples = next(iter(feed.values())).samples
    request = Request(feed, fetch, samples)
    request.check()
    identity = message.get("id", "")
    if not isinstance(identity, str):
        raise BadRequest('"id" must be a text')
    return request, Asked(model, identity, binary)


def _parts(body: bytes, header_length: str) -> tuple[bytes, memoryview]:
    """Return a body's JSON, and what lies behind it."""
    if not header_length:
        return body, memoryview(b"")
    if not header_length.isascii() or not header_length.isdigit() or int(header_length) > len(body):
        raise BadRequest(f"Inference-Header-Content-Length: {header_length[:40]!r} of {len(body)} bytes")
    length = int(header_length)
    return body[:length], memoryview(body)[length:]


def _input(one: Any, rest: memoryview) -> tuple[str, Tensor, int]:
    """Return an input's name and values, and how many binary bytes it took."""
    if not isinstance(one, dict):
        raise BadRequest("an input must be an object")
    name, datatype, shape = one.get("name"), one.get("datatype"), one.get("shape")
    if not isinstance(name, str) or not isinstance(datatype, str):
        raise BadRequest("an input must have a name and a datatype")
    if not isinstance(shape, list) or not shape or not all(type(extent) is int and extent >= 0 for extent in shape):
        raise BadRequest(f"input {name!r}: expected a shape, a list of whole numbers, got {shape!r:.80}")
    if datatype != BYTES and datatype not in TYPES:
        raise BadRequest(f"input {name!r}: unknown datatype {datatype!r:.40}; known: {', '.join([*TYPES, BYTES])}")
    parameters = one.get("parameters", {})
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return _named(name, datatype), _of_json(name, datatype, shape, one.get("data")), 0
    if type(size) is not int or not 0 <= size <= len(rest):
        raise BadRequest(f"input {name!r}: binary_data_size is {size!r:.40}, and {len(rest)} bytes follow")
    return _named(name, datatype), _of_bytes(name, datatype, shape, rest[:size]), size


def _named(name: str, datatype: str) -> str:
    return "words" if datatype == BYTES and name in TEXT_INPUTS else name


def _of_json(name: str, datatype: str, shape: list[int], data: Any) -> Tensor:
    values = _flat(data) if isinstance(data, list) else None
    if values is None or len(values) != prod(shape):
        raise BadRequest(f"input {name!r}: expected {prod(shape)} values of data, as its shape {shape} says")
    if datatype == BYTES:
        if not all(isinstance(value, str) for value in values):
            raise BadRequest(f"input {name!r}: data of BYTES must be texts")
        return _texts(name, shape, [value.encode("utf-8", "surrogatepass") for value in values])
    try:
        return _numbers(name, shape, np.array(values, dtype=TYPES[datatype]))
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRequest(f"input {name!r}: data is not all {datatype}: {error}") from error


def _flat(data: list[Any]) -> list[Any]:
    """Return values that may be nested, as the protocol allows."""
    while data and isinstance(data[0], list):
        if not all(isinstance(part, list) for part in data):
            raise BadRequest("an input's data is nested unevenly")
        data = [value for part in data for value in part]
    return data


def _of_bytes(name: str, datatype: str, shape: list[int], data: memoryview) -> Tensor:
    try:
        if datatype == BYTES:
            texts = texts_in(data)
            if len(texts) != prod(shape):
                raise ValueError(f"{len(texts)} texts for the shape {shape}")
            return _texts(name, shape, texts)
        values = np.frombuffer(data, TYPES[datatype])
        if values.size != prod(shape):
            raise ValueError(f"{len(data)} bytes for the shape {shape} of {datatype}")
    except ValueError as error:
        raise BadRequest(f"input {name!r}: {error}") from error
    return _numbers(name, shape, values)


def _texts(name: str, shape: list[int], texts: Sequence[bytes]) -> Tensor:
    if len(texts) != shape[0]:
        raise BadRequest(f"input {name!r}: expected texts of the shape [samples] or [samples, 1], got {shape}")
    return Tensor(np.frombuffer(b"".join(texts), np.uint8), tuple(map(len, texts)), text=True)


def _numbers(name: str, shape: list[int], values: Array) -> Tensor:
    """Return integers as they are read of RPC: one sample ragged, several dense, a label each without a second axis."""
    if values.dtype.kind not in "iu":
        raise BadRequest(f"input {name!r}: expected whole numbers, got {values.dtype}")
    numbers = values.astype(np.int64, copy=False)
    if name == "label":
        return Tensor(numbers.reshape(-1))
    if len(shape) > 2:
        raise BadRequest(f"input {name!r}: expected the shape [samples, ids], got {shape}")
    if len(shape) == 1 or shape[0] == 1:
        return Tensor(numbers, (len(numbers),))
    return Tensor(numbers.reshape(shape))


def _outputs(message: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, bool]]:
    """Return the outputs that a request names, and which of them are to be binary."""
    everywhere = _parameters(message).get("binary_data_output") is True
    asked = message.get("outputs")
    if asked is None:
        return OUTPUTS, dict.fromkeys(OUTPUTS, everywhere)
    if not isinstance(asked, list) or not 0 < len(asked) <= MAX_FEEDS:
        raise BadRequest(f'"outputs" must be a list of 1 to {MAX_FEEDS} objects')
    binary: dict[str, bool] = {}
    for one in asked:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise BadRequest("an output must be an object with a name")
        told = _parameters(one)
        if told.get("classification"):
            raise BadRequest("classification is not answered here; ask for the output 'class'")
        binary[one["name"]] = bool(told.get("binary_data", everywhere))
    return tuple(one["name"] for one in asked), binary


def _parameters(message: Mapping[str, Any]) -> Mapping[str, Any]:
    found = message.get("parameters", {})
    if not isinstance(found, dict):
        raise BadRequest('"parameters" must be an object')
    return found


def encode_reply(reply: Reply, asked: Asked) -> tuple[bytes, int]:
    """Return the body of an answer, and how many bytes of it are JSON; 0 where all are."""
    outputs, parts = [], []
    for name, values in reply.outputs.items():
        texts = values.dtype.kind == "U"
        datatype = BYTES if texts else _TYPE_NAMES[values.dtype.str[1:]]
        entry: dict[str, Any] = {
            "name": name,
            "datatype": datatype,
            "shape": [len(values), 1] if texts else list(values.shape),
        }
        if asked.binary.get(name):
            part = text_bytes([text.encode() for text in values.tolist()]) if texts else values.tobytes()
            entry["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            entry["data"] = values.tolist() if texts else np.ascontiguousarray(values).reshape(-1)
        outputs.append(entry)
    message = {"model_name": asked.model, "model_version": VERSION, "outputs": outputs}
    head = orjson.dumps({**message, "id": asked.id} if asked.id else message, option=orjson.OPT_SERIALIZE_NUMPY)
    return (head + b"".join(parts), len(head)) if parts else (head, 0)


_TYPE_NAMES = {"f4": "FP32", "f8": "FP64", "i4": "INT32", "i8": "INT64"}


def encode_error(words: str) -> bytes:
    """Return the body of an error."""
    return orjson.dumps({"error": words})


def server_metadata(version: str) -> dict[str, Any]:
    """Return what `/v2` says."""
    return {"name": "imdb-serving", "version": version, "extensions": ["binary_tensor_data", "model_configuration"]}


def model_metadata(info: ServerInfo) -> dict[str, Any]:
    """Return what a model's address says: its one input, and its outputs."""
    reads_text = info.reads == "text"
    datatype, shape = (BYTES, [-1, 1]) if reads_text else ("INT64", [-1, -1])
    main = {"name": info.input, "datatype": datatype, "shape": shape}
    prediction = {"name": "prediction", "datatype": "FP32", "shape": [-1, len(info.labels) or 2]}
    return {
        "name": info.model,
        "versions": [VERSION],
        "platform": f"imdb_serving_{info.engine}",
        "inputs": [main],
        "outputs": [prediction, {"name": "class", "datatype": BYTES, "shape": [-1, 1]}],
    }


def model_config(info: ServerInfo) -> dict[str, Any]:
    """Return a model's configuration, as Triton's clients ask for it."""
    told = model_metadata(info)
    kinds = {BYTES: "TYPE_STRING", "INT64": "TYPE_INT64", "FP32": "TYPE_FP32"}
    ports = {
        kind: [
            {"name": one["name"], "data_type": kinds[one["datatype"]], "dims": one["shape"][1:]}
            for one in told[f"{kind}s"]
        ]
        for kind in ("input", "output")
    }
    head = {"name": info.model, "platform": told["platform"], "backend": info.engine}
    return {**head, "max_batch_size": MAX_BATCH, **ports}
