"""HTTP responses as bytes: from a WSGI application, or from an error. No I/O."""

from __future__ import annotations

import functools
import io
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from time import time
from typing import Any, Protocol

from imdb_serving.errors import words_of
from imdb_serving.protocol.json_bodies import (
    JSON,
    PROBLEM,
    TIMEOUT_HEADER,
    code_of,
    code_of_refusal,
    encode_problem,
    headers_of,
    seconds_in,
    status_of,
)
from imdb_serving.protocol.oip import ROOT, encode_error
from imdb_serving.server.http.parsing import HttpRequest
from imdb_serving.timing import Stage

RECEIVED_NS = "imdb_serving.received_ns"
"""The key of a WSGI environment under which the web server says when the request was complete."""

BODY = "imdb_serving.body"
"""The key under which it gives the whole body."""

OUTCOME = "imdb_serving.outcome"
"""The key of what the application fills in: a `AppOutcome`."""


@dataclass(slots=True)
class AppOutcome:
    """What the application tells of a prediction: the code of a failure, or an empty text, and the stages."""

    code: str = ""
    stages: Sequence[Stage] = ()


log = logging.getLogger(__name__)

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Headers = Sequence[tuple[str, str]]


class Application(Protocol):
    """A WSGI application, and what it says of itself: `STAGE_NAMES`, of what it times."""

    config: Any

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer a request, as WSGI (PEP 3333) has it."""


def call(app: App, request: HttpRequest, base: dict[str, Any]) -> bytes:
    """Have a WSGI application answer a request, and return the whole response; what it raises is not caught."""
    environ = environ_of(request, base)
    started: list[tuple[str, Headers]] = []

    def start_response(status: str, headers: Headers, _error: object = None) -> Callable[[bytes], object]:
        started[:] = [(status, headers)]
        return parts.append

    parts: list[bytes] = []
    answer = app(environ, start_response)
    try:
        parts.extend(answer)
    finally:
        close = getattr(answer, "close", None)
        if close is not None:
            close()
    status, headers = started[0]
    return response(status, headers, b"".join(parts), request)


def respond(app: App, request: HttpRequest, base: dict[str, Any]) -> tuple[AppOutcome, bytes]:
    """Do the same, and return what the application told as well; what it raises is a fault of ours."""
    outcome = AppOutcome()
    try:
        data = call(app, request, {**base, OUTCOME: outcome})
    except Exception as error:
        log.exception("a request failed")
        outcome.code = code_of(error)
        return outcome, problem_of(error, request)
    return outcome, data


def environ_of(request: HttpRequest, base: dict[str, Any]) -> dict[str, Any]:
    """Return a request's WSGI environment; `base` has what all requests of a server share."""
    environ = {
        **base,
        "REQUEST_METHOD": request.method,
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query.decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{request.version}",
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.input": io.BytesIO(request.body),
    }
    for key, value in request.headers:
        if key == b"content-type":
            environ["CONTENT_TYPE"] = value.decode("latin-1")
        elif key not in {b"content-length", b"transfer-encoding"} and b"_" not in key:
            name = "HTTP_" + key.decode("latin-1").upper().replace("-", "_")
            text = value.decode("latin-1")
            environ[name] = f"{environ[name]},{text}" if name in environ else text
    return environ


def base_environ(host: str, port: int) -> dict[str, Any]:
    """Return what the environments of all requests of a server share."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def response(status: str, headers: Headers, body: bytes, request: HttpRequest) -> bytes:
    """Return a response's bytes, with the headers that are the server's to set."""
    length = str(len(body))
    lines = [f"HTTP/1.1 {status}", f"Date: {_date(int(time()))}", ""]
    for name, value in headers:
        if (lowered := name.lower()) not in {"connection", "content-length"}:
            lines.append(f"{name}: {value}")
        elif lowered == "content-length" and request.method == "HEAD":
            length = value  # of what GET would answer; the application leaves that out
    lines[2] = f"Content-Length: {length}"
    if not request.keep:
        lines.append("Connection: close")
    elif request.version == "1.0":
        lines.append("Connection: keep-alive")
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head if request.method == "HEAD" else head + body


@functools.lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def problem(status: HTTPStatus, detail: str, code: str, request: HttpRequest, headers: Headers = ()) -> bytes:
    """Return the response of an error, as RFC 9457 has it, or as the Open Inference Protocol where that was spoken."""
    kind, body = JSON, encode_error(detail)
    if not request.path.startswith(f"{ROOT}/"):
        kind, body = PROBLEM, encode_problem(status, status.phrase, detail, code)
    return response(f"{status.value} {status.phrase}", [("Content-Type", kind), *headers], body, request)


def problem_of(error: Exception, request: HttpRequest) -> bytes:
    """Return the whole response to a request that failed before or behind the application."""
    status = status_of(error)
    return problem(status, words_of(error), code_of(error), request, list(headers_of(status, error).items()))


def refusal(request: HttpRequest) -> bytes:
    """Return the response to what can be no request."""
    assert request.refusal is not None  # noqa: S101 - the caller has looked
    status, words = request.refusal
    return problem(status, words, code_of_refusal(status), request, list(headers_of(status).items()))


def request_seconds(request: HttpRequest) -> float:
    """Return the seconds in which a request's client wants its answer; raise `MalformedBody` when it says nonsense."""
    given = request.header(TIMEOUT_HEADER.lower().encode())
    return seconds_in(None if given is None else given.decode("latin-1"))
