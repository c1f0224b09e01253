"""The JSON bodies of the HTTP service, and errors as problem documents with their status. No I/O.

Specified in docs/protocol.md.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from imdb_serving.config import MAX_TIMEOUT
from imdb_serving.errors import (
    BadRequest,
    NotImplementedHere,
    Overloaded,
    RemoteFailure,
    RequestTimeout,
    ServerUnavailable,
    ServingError,
    Unauthorized,
)
from imdb_serving.messages import MAX_FEEDS, Array, Reply, Request, Tensor
from imdb_serving.protocol.requests import make_request
from imdb_serving.timing import CLOCK_ID, Stage

PREDICTION_PATH = "/PaddleServing/v1.0/prediction"
READY_PATH = "/health/ready"
LIVE_PATH = "/health/live"
TIMEOUT_HEADER = "X-Request-Timeout"
JSON = "application/json"
PROBLEM = "application/problem+json"
MAX_BODY_BYTES = 16 << 20

_UNREADABLE = (msgspec.MsgspecError, TypeError, ValueError, ArithmeticError, RecursionError)

_encode = msgspec.json.Encoder().encode
_encode_array, NUMPY = orjson.dumps, orjson.OPT_SERIALIZE_NUMPY
_decode = msgspec.json.Decoder().decode


class MalformedBody(BadRequest):
    """A body that is not JSON, or not a prediction; values that cannot be predicted are `BadRequest`."""


class Form(NamedTuple):
    """How a request was written, which decides how its answer is: `batch` in lists, `feed` under `result`."""

    batch: bool
    feed: bool


class _Plain(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """One sample of word ids, as most clients send it: read and checked in one go."""

    words: list[int]
    fetch: list[str]
    label: int | msgspec.UnsetType = msgspec.UNSET


_decode_plain = msgspec.json.Decoder(_Plain).decode
_PLAIN = Form(batch=False, feed=False)


def decode_request(body: bytes) -> tuple[Request, Form]:
    """Return the request in a body and its form; raise `MalformedBody`, or `BadRequest` for impossible values."""
    try:
        plain = _decode_plain(body)
        words = np.array(plain.words, np.int64)
        feed = {"words": Tensor(words, words.shape)}
        if plain.label is not msgspec.UNSET:
            feed["label"] = Tensor(np.array([plain.label], np.int64))
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError):
        return _decode_any(body)
    sound = 0 < len(plain.fetch) <= MAX_FEEDS
    return (Request(feed, tuple(plain.fetch), 1), _PLAIN) if sound else _decode_any(body)


def _decode_any(body: bytes) -> tuple[Request, Form]:
    """Do so for any form, and say what is wrong with one that is none."""
    try:
        message: Any = _decode(body.removeprefix(BOM_UTF8))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBody(f"the body is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise MalformedBody('the body must be a JSON object such as {"words": [8, 233, 52], "fetch": ["prediction"]}')
    fetch = message.pop("fetch", None)
    if not isinstance(fetch, list) or not all(isinstance(name, str) for name in fetch):
        raise MalformedBody('"fetch" must be a list of names, for example ["prediction"]')
    if "feed" not in message:
        feeds, batch = _samples(message)
        return make_request(feeds, fetch), Form(batch, feed=False)
    feeds = message.pop("feed")
    if not isinstance(feeds, list) or not all(isinstance(feed, dict) for feed in feeds):
        raise MalformedBody('"feed" must be a list of objects, one a sample')
    if message:
        raise MalformedBody(f"beside feed and fetch there can be no {', '.join(map(repr, message))}")
    return make_request(feeds, fetch), Form(batch=True, feed=True)


def _samples(message: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """Split `{"words": ..., "label": ...}` into samples; it is a batch when `words` is a list of lists or texts.

    So it is when another feed is, which a model may have in place of `words`, or beside its own name for it.
    """
    main = "words" if "words" in message else next((name for name in message if name != "label"), "")
    words = message.get(main)
    if not (isinstance(words, list) and words and isinstance(words[0], list | str)):
        return [dict(message)], False
    for name, values in message.items():
        if not isinstance(values, list) or len(values) != len(words):
            raise BadRequest(f"{main} holds {len(words)} samples, so {name!r} must be a list of as many")
    return [{name: values[row] for name, values in message.items()} for row in range(len(words))], True


def encode_request(request: Request) -> bytes:
    """Return the body of a request: one sample in the published form, several as lists."""
    if request.samples == len(request.feed) == 1:
        ((name, tensor),) = request.feed.items()
        if tensor.lengths == tensor.values.shape and not tensor.text:  # one review as word ids, what most are
            try:
                return _encode_array({name: tensor.values, "fetch": request.fetch}, None, NUMPY)
            except TypeError:  # an array that is not laid out in a row
                pass
    feed = {name: _values(tensor) for name, tensor in request.feed.items()}
    if request.samples == 1:
        feed = {name: values[0] for name, values in feed.items()}
    return _encode({**feed, "fetch": request.fetch})


def _values(tensor: Tensor) -> list[Any]:
    if tensor.text:
        return [part.tobytes().decode("utf-8") for part in tensor.split()]
    if tensor.lengths is None:
        rows: list[Any] = tensor.values.tolist()
        return rows
    return [part.tolist() for part in tensor.split()]


def encode_reply(reply: Reply, form: Form) -> bytes:
    """Return the body of an answer: a list of values a fetch name, one more level deep for a batch."""
    outputs = {name: (values if form.batch else values[0]).tolist() for name, values in reply.outputs.items()}
    return _encode({"result": outputs} if form.feed else outputs)


def decode_reply(body: bytes, samples: int) -> dict[str, Array]:
    """Return the outputs in a body, the sample as first axis; raise `RemoteFailure` for what is no answer."""
    if samples == 1 and (flat := _flat_reply(body)) is not None:
        return flat
    try:
        with np.errstate(over="raise"):  # a number beyond float32 is no answer of ours, and no warning either
            outputs = {name: _array(name, values) for name, values in dict(_decode(body)).items()}
    except _UNREADABLE as error:
        raise RemoteFailure(f"the server's answer cannot be read: {error}") from error
    if samples == 1:
        outputs = {name: values[None] for name, values in outputs.items()}
    if any(values.ndim == 0 or len(values) != samples for values in outputs.values()):
        raise RemoteFailure(f"the server's answer does not hold {samples} samples")
    return dict(outputs)


def _array(name: str, values: Any) -> Array:
    """Return an output's values: names of classes as texts, all others as float32."""
    found = np.asarray(values, dtype=None if name == "class" else np.float32)
    if name == "class" and found.dtype.kind != "U":
        raise ValueError(f"class: expected a name, got {found.dtype}")
    return found


_read_flat = msgspec.json.Decoder(dict[str, list[float]]).decode
LARGEST = 3e38
"""Less than the largest float32."""


def _flat_reply(body: bytes) -> dict[str, Array] | None:
    """Return the outputs of one sample when each is a list of numbers, as most are; None for any other body."""
    outputs: dict[str, Array] = {}
    try:
        for name, numbers in _read_flat(body).items():
            if not -LARGEST < min(numbers) <= max(numbers) < LARGEST:
                return None
            outputs[name] = np.array((numbers,), np.float32)
    except _UNREADABLE:
        return None
    return outputs


def encode_problem(status: int, title: str, detail: str, code: str) -> bytes:
    """Return the body of an error, as RFC 9457 has it; `code` is the error's name in docs/protocol.md."""
    return _encode({"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code})


def decode_problem(body: bytes) -> tuple[str | None, str]:
    """Return the code (None when there is none) and the words of an error's body, whatever that is."""
    try:
        problem = dict(_decode(body))
    except _UNREADABLE:
        problem = {}
    code, words = problem.get("code"), problem.get("detail") or problem.get("title")
    return code if isinstance(code, str) else None, str(words or body[:200].decode("utf-8", "replace").strip())


def format_timing(stages: Sequence[Stage]) -> str:
    """Return the stages as a `Server-Timing` header: durations in ms, and when each began in ns of `clock`."""
    entries = [f"{at.name};dur={(at.end_ns - at.start_ns) / 1e6:.6f};start={at.start_ns}" for at in stages]
    return ", ".join([*entries, f'clock;desc="{CLOCK_ID}"'])


def parse_timing(header: str) -> tuple[list[Stage], str]:
    """Return the stages and the clock's id in a `Server-Timing` header; entries without a start are skipped."""
    stages, clock = [], ""
    for entry in filter(None, header.split(",")):
        name, *parameters = (part.strip() for part in entry.split(";"))
        values = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
        if name == "clock":
            clock = values.get("desc", "").strip('"')
        elif "start" in values and "dur" in values:
            try:
                start = int(values["start"])
                stages.append(Stage(name, start, start + round(float(values["dur"]) * 1e6)))
            except (ValueError, OverflowError) as error:
                raise RemoteFailure(f"the answer's Server-Timing header cannot be read: {entry!r}") from error
    return stages, clock


DEFAULT_REQUEST_SECONDS = 30.0
RETRY_AFTER_SECONDS = "1"


STATUS: dict[type[ServingError], HTTPStatus] = {
    MalformedBody: HTTPStatus.BAD_REQUEST,
    BadRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    ServerUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    RequestTimeout: HTTPStatus.GATEWAY_TIMEOUT,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
}
_HEADERS = {
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": RETRY_AFTER_SECONDS},
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
}


_CODES = {
    HTTPStatus.SERVICE_UNAVAILABLE: Overloaded.code,
    HTTPStatus.REQUEST_TIMEOUT: RequestTimeout.code,
    HTTPStatus.NOT_IMPLEMENTED: NotImplementedHere.code,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: NotImplementedHere.code,
}


def status_of(error: Exception) -> HTTPStatus:
    """Return the status of an error; what was not foreseen is the server's own."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)


def code_of(error: Exception) -> str:
    """Return an error's name for programs."""
    return error.code if isinstance(error, ServingError) else RemoteFailure.code


def headers_of(status: HTTPStatus, error: Exception | None = None) -> dict[str, str]:
    """Return the header that says when to come again, or what to show, where that is of use."""
    if isinstance(error, ServerUnavailable):
        return {"Retry-After": str(error.retry_seconds)}
    return _HEADERS.get(status, {})


def code_of_refusal(status: HTTPStatus) -> str:
    """Return the code of what was refused before it was read."""
    return _CODES.get(status, BadRequest.code if status < HTTPStatus.INTERNAL_SERVER_ERROR else RemoteFailure.code)


def seconds_in(given: str | None) -> float:
    """Return the seconds in which the client wants its answer; raise `MalformedBody` when they cannot be read."""
    if given is None:
        return DEFAULT_REQUEST_SECONDS
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise MalformedBody(f"{TIMEOUT_HEADER} must be seconds above 0 and at most {MAX_TIMEOUT:.0f}, got {given!r}")
    return seconds
