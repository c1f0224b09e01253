"""The Flask application: predictions as JSON, health, and a page to try it. Specified in docs/protocol.md.

Knows no web server: `http_server.py` runs it. A `Backend` answers the predictions: this server's own workers, or the
RPC server behind a gateway (`gateway.py`).
"""

from __future__ import annotations

import functools
import hmac
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from time import monotonic, perf_counter_ns
from typing import Any, Protocol

import msgspec
from flask import Flask, Response, render_template, request
from werkzeug.exceptions import HTTPException, UnsupportedMediaType

from imdb_serving.config import WorkerKind
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
from imdb_serving.protocol import json_bodies, wire
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
from imdb_serving.server.http_responses import BODY, DEADLINE, RECEIVED_NS
from imdb_serving.server.rpc_requests import make_answer, telling
from imdb_serving.server.worker import nothing_yet, step_timer
from imdb_serving.server.worker_pool import WorkerPool, server_info
from imdb_serving.timing import Stage, Timeline

log = logging.getLogger(__name__)


Refusing = Callable[[], ServingError | None] | None
"""Returns what is answered instead while a server starts."""


def refuse_while_starting(refusing: Refusing) -> None:
    """Raise what is answered while a server starts."""
    if refusing is not None and (refusal := refusing()) is not None:
        raise refusal


class Backend(Protocol):
    """What answers predictions; called from several threads at once."""

    refusing: Refusing

    def describe(self) -> ServerInfo:
        """Return who answers; raise a `ServingError` when nobody does."""

    def answer(self, request: Request, deadline: float) -> Reply:
        """Return the reply, its stages beginning with `handover`, or raise a `ServingError`."""


class Workers:
    """A backend of workers in a pool of this server's own.

    A thread worker takes the request as it is, in the web server's thread; a process gets it in RPC's frames.
    """

    refusing: Refusing = None

    def __init__(
        self,
        make_handler: Callable[[], Handler] | None,
        count: int,
        kind: WorkerKind,
        info: ServerInfo,
        preload: Sequence[str] = (),
    ) -> None:
        """Make the pool; the server starts and stops it. What makes handlers may come later, by `set_handler`."""
        self.pool = WorkerPool(nothing_yet, count, kind, preload, wire.fingerprint)
        if make_handler is not None:
            self.set_handler(make_handler)
        self._ask = self._ask_process if kind == "process" else self._ask_thread
        self.info = info

    def set_handler(self, make_handler: Callable[[], Handler]) -> None:
        """Take what makes a worker's handler; before the pool is started."""
        make = make_answer if self.pool.kind == "process" else make_local_answer
        self.pool.make_answer = functools.partial(make, make_handler)

    def describe(self) -> ServerInfo:
        """Return who answers; raise `ServerUnavailable` while no worker is there. One that is missing stops nobody."""
        refuse_while_starting(self.refusing)
        return server_info(self.info, self.pool)

    def answer(self, request: Request, deadline: float) -> Reply:
        reply = self._ask(perf_counter_ns(), request, deadline)
        if isinstance(reply, ServingError):
            raise reply
        if not isinstance(reply, Reply):
            raise RemoteFailure("the worker answered a prediction with something else")
        handover, *ops = reply.stages
        return Reply(reply.outputs, [Stage("handover", handover.start_ns, handover.end_ns), *ops])

    def _ask_thread(self, begun_ns: int, request: Request, deadline: float) -> Reply | ServingError:
        deadline_ns = begun_ns + int((deadline - monotonic()) * 1e9)
        answer: Reply | ServingError = self.pool.ask(begun_ns, (request, deadline_ns), deadline)
        return answer

    def _ask_process(self, begun_ns: int, request: Request, deadline: float) -> Reply | ServerInfo | ServingError:
        left_ms = max(1.0, (deadline - monotonic()) * 1000)
        frames = self.pool.ask(begun_ns, wire.encode_request(request, 0, left_ms), deadline)
        opened = wire.open_frames(frames)
        answer = wire.decode_answer(opened.header, opened.tensors)[1]
        return Reply(answer.outputs, answer.stages()) if isinstance(answer, wire.Answered) else answer


LocalAnswer = Callable[[int, tuple[Request, int]], Reply | ServingError]


def make_local_answer(make_handler: Callable[[], Handler]) -> LocalAnswer:
    """Make a handler, and return what answers requests with it; what goes wrong is returned, for it may not raise.

    A request comes with its deadline (ns).
    """
    handler = make_handler()

    def answer(begun_ns: int, asked: tuple[Request, int]) -> Reply | ServingError:
        request, deadline_ns = asked
        timeline = Timeline([], deadline_ns)
        timeline.add("handover", begun_ns, perf_counter_ns())
        try:
            reply = handler(request, timeline)
        except ServingError as error:
            return error
        except BaseException:  # SystemExit as well: a request must not end a worker
            log.exception("a request failed")
            return RemoteFailure(UNFORESEEN)
        if step_timer.wanted:
            step_timer.record(reply.stages[1:])
        return reply

    return telling(answer, handler)


PROTOCOL = "imdb-serving-http/1"
OPENAPI_PATH = "/openapi.json"
ENCODING_KEY = "HTTP_CONTENT_ENCODING"
TIMEOUT_KEY = "HTTP_" + TIMEOUT_HEADER.upper().replace("-", "_")


def make_app(
    backend: Backend, *, max_body_bytes: int = json_bodies.MAX_BODY_BYTES, profile: bool = False, token: str = ""
) -> Flask:
    """Return the application; `profile` has it write the published PROFILE lines to standard error.

    With a `token` it requires that bearer token (RFC 6750) for everything but liveness and readiness.

    Set `app.config["DRAINING"]` to the time (perf_counter_ns) from which on it refuses predictions that arrive, while
    those that had arrived are answered.
    """
    app = Flask(__name__)
    app.config.update(MAX_CONTENT_LENGTH=max_body_bytes, DRAINING=0)
    app.url_map.merge_slashes = False  # an unknown path is told, not redirected

    if token:
        app.before_request(functools.partial(_check_token, token.encode()))

    @app.post(PREDICTION_PATH)
    def predict() -> Response:
        begun = perf_counter_ns()
        environ = request.environ  # looked up once: each time goes through three proxies
        received = environ.get(RECEIVED_NS, begun)
        if 0 < app.config["DRAINING"] < received:
            raise ServerUnavailable("this server is shutting down; use another one")
        response = _predict(backend, environ, received, begun)
        if profile and response.status_code == HTTPStatus.OK:
            _write_profile(begun, response)
        return response

    @app.get(LIVE_PATH)
    def live() -> Response:
        return _json({"status": "live"})

    @app.get(READY_PATH)
    def ready() -> Response:
        if app.config["DRAINING"]:
            raise ServerUnavailable("this server is shutting down")
        info = backend.describe()
        return _json({"status": "ready", "server": info} if _shows(token.encode()) else {"status": "ready"})

    @app.get(OPENAPI_PATH)
    def openapi() -> Response:
        return Response(render_template("openapi.json"), content_type=JSON)

    @app.get("/")
    def page() -> str:
        return render_template("index.html", path=PREDICTION_PATH, info=_who(backend))

    app.register_error_handler(Exception, _problem)
    return app


def _shows(token: bytes) -> bool:
    """Return whether the request has the token, or needs none."""
    shown = request.headers.get("Authorization", "").encode("latin-1", "replace")
    return not token or hmac.compare_digest(shown, b"Bearer " + token)


def _check_token(token: bytes) -> None:
    if request.path not in {LIVE_PATH, READY_PATH} and not _shows(token):
        raise Unauthorized("this server requires a bearer token: Authorization: Bearer TOKEN")


def _predict(backend: Backend, environ: Mapping[str, Any], received_ns: int, begun_ns: int) -> Response:
    deadline = environ.get(DEADLINE)
    if deadline is None:
        deadline = monotonic() + seconds_in(environ.get(TIMEOUT_KEY)) - (begun_ns - received_ns) / 1e9
    if environ.get("CONTENT_TYPE") != JSON or ENCODING_KEY in environ:
        _check_media_type()
    body = environ.get(BODY)
    message, form = json_bodies.decode_request(request.get_data(cache=False) if body is None else body)
    parsed_ns = perf_counter_ns()
    reply = backend.answer(message, deadline)
    stages = [Stage("queue", received_ns, begun_ns), Stage("parse", begun_ns, parsed_ns), *reply.stages]
    headers = [("Content-Type", JSON), ("Server-Timing", json_bodies.format_timing(stages))]
    return Response(json_bodies.encode_reply(reply, form), headers=headers)


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


def _who(backend: Backend) -> ServerInfo | None:
    try:
        return backend.describe()
    except ServingError:
        return None


def _json(message: object) -> Response:
    return Response(msgspec.json.encode(message), content_type=JSON)


def _problem(error: Exception) -> Response:
    """Answer any error as a problem (RFC 9457); what was not foreseen is logged, and its words stay here."""
    if isinstance(error, HTTPException):
        return _http_problem(error)
    status = status_of(error)
    if not isinstance(error, ServingError):
        log.error("a request failed", exc_info=error)
    body = json_bodies.encode_problem(status, status.phrase, words_of(error), code_of(error))
    return Response(body, status, headers_of(status, error), content_type=PROBLEM)


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
    response = _problem_response(HTTPStatus(error.code or 500), detail)
    response.headers.extend(headers)
    return response


def _problem_response(status: HTTPStatus, detail: str) -> Response:
    code = BadRequest.code if status < HTTPStatus.INTERNAL_SERVER_ERROR else RemoteFailure.code
    body = json_bodies.encode_problem(status, status.phrase, detail, code)
    return Response(body, status, content_type=PROBLEM)


def _write_profile(begun_ns: int, response: Response) -> None:
    """Write what the published service does: seconds within Flask beside the model, and in all."""
    ended = perf_counter_ns()
    stages, _ = json_bodies.parse_timing(response.headers.get("Server-Timing", ""))
    served = sum(stage.end_ns - stage.start_ns for stage in stages if stage.name not in {"queue", "parse"})
    total = ended - begun_ns
    sys.stderr.write(f"PROFILE flask_cost: {(total - served) / 1e9:.6f} total_cost: {total / 1e9:.6f}\n")
