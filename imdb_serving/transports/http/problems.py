"""Errors over HTTP: which status an error has, and its problem document. It knows no web server and no Flask."""

from __future__ import annotations

from http import HTTPStatus

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
    words_of,
)
from imdb_serving.transports.http.json_wire import TIMEOUT_HEADER, MalformedBody, decode_problem
from imdb_serving.transports.http.parsing import HttpRequest
from imdb_serving.transports.http.responses import problem
from imdb_serving.workers.outcomes import FailedBytes

DEFAULT_REQUEST_SECONDS = 30.0
RETRY_AFTER_SECONDS = "1"
RECEIVED_NS = "imdb_serving.received_ns"
"""The key of a WSGI environment under which the web server says when the request was complete."""

BODY = "imdb_serving.body"
"""The key under which it gives the whole body."""

DEADLINE = "imdb_serving.deadline"
"""The key under which it gives a prediction's deadline (of `monotonic`), and None for all else."""

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


def problem_of(error: Exception, request: HttpRequest) -> bytes:
    """Return the whole response to a request that failed before or behind the application."""
    status = status_of(error)
    return problem(status, words_of(error), code_of(error), request, list(headers_of(status, error).items()))


def failed(response: bytes) -> FailedBytes:
    """Mark a response as an error, with the code in its problem document."""
    marked = FailedBytes(response)
    marked.code = decode_problem(response.partition(b"\r\n\r\n")[2])[0] or RemoteFailure.code
    return marked


def code_of_refusal(status: HTTPStatus) -> str:
    """Return the code of what was refused before it was read."""
    return _CODES.get(status, BadRequest.code if status < HTTPStatus.INTERNAL_SERVER_ERROR else RemoteFailure.code)


def refusal(request: HttpRequest) -> bytes:
    """Return the response to what can be no request."""
    assert request.refusal is not None  # noqa: S101 - the caller has looked
    status, words = request.refusal
    return problem(status, words, code_of_refusal(status), request, list(headers_of(status).items()))


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


def request_seconds(request: HttpRequest) -> float:
    """Return the same from a request."""
    given = request.header(TIMEOUT_HEADER.lower().encode())
    return seconds_in(None if given is None else given.decode("latin-1"))
