"""The Flask application: predictions as JSON, health, and a page to try it. Specified in docs/protocol.md.

Knows no web server: `service.py` runs it. The supervisor has one for everything but predictions, and each worker
one for these, which its handler answers, or the RPC server behind a gateway (`gateway.py`).
"""

from __future__ import annotations

import functools
import hmac
import logging
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from time import perf_counter_ns
from typing import Any

import msgspec
from flask import Flask, Response, render_template, request
from werkzeug.exceptions import HTTPException, UnsupportedMediaType
from werkzeug.routing import MapAdapter

from imdb_serving.errors import (
    UNFORESEEN,
    BadRequest,
    RemoteFailure,
    ServerUnavailable,
    ServingError,
    Unauthorized,
    words_of,
)
from imdb_serving.messages import Handler, Reply, Request, ServerInfo
from imdb_serving.protocol import json_bodies, oip
from imdb_serving.protocol.json_bodies import (
    JSON,
    LIVE_PATH,
    PREDICTION_PATH,
    PROBLEM,
    READY_PATH,
    TIMEOUT_HEADER,
    code_of,
    headers_of,
    seconds_in,
    status_of,
)
from imdb_serving.server.http import oip_routes
from imdb_serving.server.http.responses import BODY, OUTCOME, RECEIVED_NS
from imdb_serving.server.workers.pace import step_timer
from imdb_serving.timing import Stage, Timeline

log = logging.getLogger(__name__)


Describe = Callable[[], ServerInfo]
"""Returns who answers; raises a `ServingError` when nobody does."""

Answer = Callable[[Request, int], Reply]
"""Returns the reply to a request with a deadline (ns), its stages beginning with `handover`, or raises."""


def no_prediction(_request: Request, _deadline_ns: int) -> Reply:
    """Stand in for `Answer` where no prediction comes."""
    raise ServerUnavailable("this process answers no predictions")


def nobody() -> ServerInfo:
    """Stand in for `Describe` where nobody asks."""
    raise ServerUnavailable("this process says nothing of the server")


def make_worker_app(make_handler: Callable[[], Handler], **options: Any) -> Flask:
    """Make a handler, and the application of a worker, which answers predictions with it; see `make_app`."""
    handler = make_handler()

    def answer(request: Request, deadline_ns: int) -> Reply:
        timeline = Timeline([], deadline_ns)
        begun_ns = perf_counter_ns()
        timeline.add("handover", begun_ns, begun_ns)
        try:
            reply = handler(request, timeline)
        except ServingError:
            raise
        except BaseException as error:  # SystemExit as well: a request must not end a worker
            log.exception("a request failed")
            raise RemoteFailure(UNFORESEEN) from error
        if step_timer.wanted:
            step_timer.record(reply.stages[1:])
        return reply

    app = make_app(nobody, answer, **options)
    app.config["STAGE_NAMES"] = getattr(handler, "stage_names", ())
    return app


PROTOCOL = "imdb-serving-http/1"
OPENAPI_PATH = "/openapi.json"
ENCODING_KEY = "HTTP_CONTENT_ENCODING"
TIMEOUT_KEY = "HTTP_" + TIMEOUT_HEADER.upper().replace("-", "_")


KNOWN_HOSTS = 64


class _App(Flask):
    """Flask that checks the host of predictions once, and not each time: a tenth of a request."""

    def __init__(self) -> None:
        super().__init__(__name__)
        self._hosts: dict[str, str] = {}

    def create_url_adapter(self, request: Any) -> MapAdapter | None:
        if request is None or request.path != PREDICTION_PATH:
            return super().create_url_adapter(request)
        host = request.environ.get("HTTP_HOST", "")
        name = self._hosts.get(host)
        if name is not None:
            return MapAdapter(self.url_map, name, "", "", request.scheme, PREDICTION_PATH, request.method)
        adapter = super().create_url_adapter(request)
        if adapter is not None and len(self._hosts) < KNOWN_HOSTS:
            self._hosts[host] = adapter.server_name
        return adapter


class _Answer(Response):
    """The response to a prediction: sent as it was made. Werkzeug would look for what it could correct."""

    def __call__(self, _environ: Any, start_response: Any) -> Any:
        start_response("200 OK", self.headers.to_wsgi_list())
        return self.response


def make_app(
    describe: Describe,
    answer: Answer = no_prediction,
    *,
    max_body_bytes: int = json_bodies.MAX_BODY_BYTES,
    profile: bool = False,
    token: str = "",
    model: Callable[[], str] = str,
) -> Flask:
    """Return the application; `profile` has it write the published PROFILE lines to standard error.

    With a `token` it requires that bearer token (RFC 6750) for everything but liveness and readiness. `model` returns
    the name that predictions of the Open Inference Protocol must have, empty for any.
    """
    app = _App()
    app.config.update(MAX_CONTENT_LENGTH=max_body_bytes)
    app.url_map.merge_slashes = False  # an unknown path is told, not redirected

    if token:
        app.before_request(functools.partial(_check_token, token.encode()))

    @app.post(PREDICTION_PATH)
    def predict() -> Response:
        begun = perf_counter_ns()
        environ = request.environ  # looked up once: each time goes through three proxies
        received = environ.get(RECEIVED_NS, begun)
        response = _predict(answer, environ, received, begun)
        if profile and response.status_code == HTTPStatus.OK:
            _write_profile(begun, response)
        return response

    @app.get(LIVE_PATH)
    def live() -> Response:
        return _json({"status": "live"})

    @app.get(READY_PATH)
    def ready() -> Response:
        info = describe()
        return _json({"status": "ready", "server": info} if _shows(token.encode()) else {"status": "ready"})

    @app.get(OPENAPI_PATH)
    def openapi() -> Response:
        return Response(render_template("openapi.json"), content_type=JSON)

    @app.get("/")
    def page() -> str:
        return render_template("index.html", path=PREDICTION_PATH, info=_who(describe))

    oip_routes.add_routes(app, describe, answer, model)
    app.register_error_handler(Exception, _problem)
    return app


def _shows(token: bytes) -> bool:
    """Return whether the request has the token, or needs none."""
    shown = request.headers.get("Authorization", "").encode("latin-1", "replace")
    return not token or hmac.compare_digest(shown, b"Bearer " + token)


def _check_token(token: bytes) -> None:
    if request.path not in {LIVE_PATH, READY_PATH, oip.LIVE, oip.READY} and not _shows(token):
        raise Unauthorized("this server requires a bearer token: Authorization: Bearer TOKEN")


def _predict(answer: Answer, environ: Mapping[str, Any], received_ns: int, begun_ns: int) -> Response:
    deadline_ns = received_ns + int(seconds_in(environ.get(TIMEOUT_KEY)) * 1e9)
    if environ.get("CONTENT_TYPE") != JSON or ENCODING_KEY in environ:
        _check_media_type()
    body = environ.get(BODY)
    message, form = json_bodies.decode_request(request.get_data(cache=False) if body is None else body)
    parsed_ns = perf_counter_ns()
    reply = answer(message, deadline_ns)
    stages = [Stage("queue", received_ns, begun_ns), Stage("parse", begun_ns, parsed_ns), *reply.stages]
    body = json_bodies.encode_reply(reply, form)
    timing = json_bodies.format_timing(stages)
    if (outcome := environ.get(OUTCOME)) is not None:
        outcome.stages = stages
    headers = [("Content-Type", JSON), ("Server-Timing", timing), ("Content-Length", str(len(body)))]
    return _Answer([body], headers=headers)


def _check_media_type() -> None:
    """Refuse a body that is not JSON in UTF-8 as it stands."""
    coding = request.headers.get("Content-Encoding", "identity")
    if coding.strip().lower() not in {"", "identity"}:
        raise UnsupportedMediaType(f"Content-Encoding: {coding} is not supported; send the body as it is")
    if not request.is_json:
        raise UnsupportedMediaType(
            f"the Content-Type must be {JSON}, got {request.content_type or 'none'}; "
            f"with curl: -H 'Content-Type: {JSON}'"
        )
    charset = request.mimetype_params.get("charset", "utf-8")
    if charset.lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise UnsupportedMediaType(f"Content-Type: {request.content_type} is not supported; JSON is sent in UTF-8")


def _who(describe: Describe) -> ServerInfo | None:
    try:
        return describe()
    except ServingError:
        return None


def _json(message: object) -> Response:
    return Response(msgspec.json.encode(message), content_type=JSON)


def _problem(error: Exception) -> Response:
    """Answer any error as a problem (RFC 9457); what was not foreseen is logged, and its words stay here."""
    if isinstance(error, HTTPException):
        return _http_problem(error)
    status = oip_routes.status_of(error) if _speaks_oip() else status_of(error)
    if not isinstance(error, ServingError):
        log.error("a request failed", exc_info=error)
    return _problem_response(status, words_of(error), code_of(error), headers_of(status, error))


def _http_problem(error: HTTPException) -> Response:
    """Return Flask's own refusals as problems: unknown path, wrong method, body too large."""
    detail = error.description or ""
    headers = {name: value for name, value in error.get_headers() if name.lower() not in {"content-type"}}
    if error.code == HTTPStatus.NOT_FOUND:
        detail = f"there is no {request.path}; predictions are at {PREDICTION_PATH}"
    elif error.code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.path} takes {headers.get('Allow', 'other methods')}, not {request.method}"
    elif error.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        detail = "the body is larger than this server takes; send smaller batches"
    elif error.code == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        headers["Accept-Encoding"] = "identity"
    status = HTTPStatus(error.code or 500)
    code = BadRequest.code if status < HTTPStatus.INTERNAL_SERVER_ERROR else RemoteFailure.code
    return _problem_response(status, detail, code, headers)


def _speaks_oip() -> bool:
    return request.path == oip.ROOT or request.path.startswith(f"{oip.ROOT}/")


def _problem_response(status: HTTPStatus, detail: str, code: str, headers: Mapping[str, str]) -> Response:
    outcome = request.environ.get(OUTCOME)
    if outcome is not None:
        outcome.code = code
    if _speaks_oip():
        return oip_routes.error_response(detail, status, dict(headers))
    body = json_bodies.encode_problem(status, status.phrase, detail, code)
    return Response(body, status, headers, content_type=PROBLEM)


def _write_profile(begun_ns: int, response: Response) -> None:
    """Write what the published service does: seconds within Flask beside the model, and in all."""
    ended = perf_counter_ns()
    stages, _ = json_bodies.parse_timing(response.headers.get("Server-Timing", ""))
    served = sum(stage.end_ns - stage.start_ns for stage in stages if stage.name not in {"queue", "parse"})
    total = ended - begun_ns
    sys.stderr.write(f"PROFILE flask_cost: {(total - served) / 1e9:.6f} total_cost: {total / 1e9:.6f}\n")
