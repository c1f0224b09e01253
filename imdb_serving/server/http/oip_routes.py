"""The Open Inference Protocol v2 in the Flask application: health, metadata, and predictions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from time import perf_counter_ns
from typing import Any

import orjson
from flask import Flask, Response, request

import imdb_serving
from imdb_serving.errors import BadRequest
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.protocol import json_bodies, oip
from imdb_serving.protocol.json_bodies import JSON, seconds_in
from imdb_serving.protocol.oip_tensors import HEADER_LENGTH
from imdb_serving.server.http.responses import BODY, OUTCOME, RECEIVED_NS
from imdb_serving.timing import Stage

OCTETS = "application/octet-stream"
HEADER_KEY = "HTTP_" + HEADER_LENGTH.upper().replace("-", "_")
TIMEOUT_KEY = "HTTP_" + json_bodies.TIMEOUT_HEADER.upper().replace("-", "_")


class NoSuchModel(BadRequest):
    """A model or version that is not here."""


def add_routes(
    app: Flask, describe: Callable[[], ServerInfo], answer: Callable[[Request, int], Reply], model: Callable[[], str]
) -> None:
    """Add the protocol's addresses. `model` returns the name that predictions must have; empty for any."""

    @app.get(oip.ROOT)
    def server() -> Response:
        return _json(oip.server_metadata(imdb_serving.__version__))

    @app.get(oip.LIVE)
    def oip_live() -> Response:
        return _json({"live": True})

    @app.get(oip.READY)
    def oip_ready() -> Response:
        describe()
        return _json({"ready": True})

    for suffix, tell in (("", oip.model_metadata), ("/config", oip.model_config), ("/ready", _ready)):
        view = partial(_model, describe, tell)
        for place in ("<name>", "<name>/versions/<version>"):
            app.add_url_rule(f"{oip.MODELS}{place}{suffix}", f"oip{place}{suffix}", view)

    @app.post(f"{oip.MODELS}<name>/infer")
    @app.post(f"{oip.MODELS}<name>/versions/<version>/infer")
    def infer(name: str, version: str = oip.VERSION) -> Response:
        check_model(name, version, model())
        return _infer(answer, name)


def _ready(info: ServerInfo) -> dict[str, Any]:
    return {"name": info.model, "ready": True}


def _model(
    describe: Callable[[], ServerInfo], tell: Callable[[ServerInfo], object], name: str, version: str = oip.VERSION
) -> Response:
    """Answer what `tell` says of the model."""
    info = describe()
    check_model(name, version, info.model)
    return _json(tell(info))


def check_model(name: str, version: str, model: str) -> None:
    """Raise `NoSuchModel` for a name or version that is not this server's."""
    if model and name != model:
        raise NoSuchModel(f"there is no model {name!r} here; there is {model!r}")
    if version != oip.VERSION:
        raise NoSuchModel(f"there is no version {version!r} of {name!r}; there is {oip.VERSION!r}")


def _infer(answer: Callable[[Request, int], Reply], name: str) -> Response:
    begun = perf_counter_ns()
    environ: dict[str, Any] = request.environ
    received = environ.get(RECEIVED_NS, begun)
    deadline_ns = received + int(seconds_in(environ.get(TIMEOUT_KEY)) * 1e9)
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
        raise BadRequest("Content-Encoding is not supported; send the body as it is")
    body = environ.get(BODY)
    given = request.get_data(cache=False) if body is None else body
    message, asked = oip.decode_request(given, environ.get(HEADER_KEY, ""), name)
    parsed = perf_counter_ns()
    reply = answer(message, deadline_ns)
    stages = [Stage("queue", received, begun), Stage("parse", begun, parsed), *reply.stages]
    data, header_length = oip.encode_reply(reply, asked)
    if (outcome := environ.get(OUTCOME)) is not None:
        outcome.stages = stages
    headers = {"Server-Timing": json_bodies.format_timing(stages)}
    if header_length:
        headers[HEADER_LENGTH] = str(header_length)
    return Response(data, headers=headers, content_type=OCTETS if header_length else JSON)


def status_of(error: Exception) -> HTTPStatus:
    """Return the status of an error, as the protocol has them: what the client must change is 400, or 404."""
    if isinstance(error, NoSuchModel):
        return HTTPStatus.NOT_FOUND
    return HTTPStatus.BAD_REQUEST if isinstance(error, BadRequest) else json_bodies.status_of(error)


def error_response(words: str, status: HTTPStatus, headers: dict[str, str]) -> Response:
    """Return the response of an error."""
    return Response(oip.encode_error(words), status, headers, content_type=JSON)


def _json(message: object) -> Response:
    return Response(orjson.dumps(message), content_type=JSON)
