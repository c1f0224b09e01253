"""Error types that a caller can tell apart, and their codes on the wire.

Each message says what was wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable


class ServingError(Exception):
    """Base of every error this package raises on purpose; `code` is its name on the wire."""

    code = "error"


class BadRequest(ServingError):
    """The request can never succeed as it is: the caller must change it."""

    code = "bad_request"


class NotImplementedHere(BadRequest):
    """The request uses a part of HTTP that this server does not implement."""

    code = "not_implemented"


class ServerUnavailable(ServingError):
    """No server answers at the endpoint, or it is starting or shutting down.

    `retry_seconds` is when to come again. `answered` is true when a server said so, false when none was found.
    """

    code = "unavailable"
    retry_seconds = 1
    answered = False


class Starting(ServerUnavailable):
    """The server is there and cannot answer yet; in about `retry_seconds` it can."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"starting, ready in about {seconds:.0f} s")
        self.retry_seconds = round(seconds)


class RequestTimeout(ServingError):
    """The server is there but did not answer before the deadline."""

    code = "timeout"


class Overloaded(ServingError):
    """More requests wait already than the server lets wait; later, or at another server, it may succeed."""

    code = "overloaded"


class Unauthorized(ServingError):
    """The server does not know this client, or is not the one it was taken for: the keys or the token are wrong."""

    code = "unauthorized"


class RemoteFailure(ServingError):
    """The server failed while working on a well-formed request."""

    code = "internal"


UNREADABLE, REDIRECT = "unreadable", "redirect"
"""Kinds of what a server of someone else can answer, beside `status 503` and the like."""


class UnexpectedAnswer(ServingError):
    """A server of someone else answered with what is no answer; `code` is the kind."""

    code = "unexpected"

    def __init__(self, message: str, code: str = "unexpected") -> None:
        super().__init__(message)
        self.code = code


class ServerStartError(ServingError):
    """A server could not start: port taken, worker failed, no model."""

    code = "start"


class DataError(ServingError):
    """A data file or source is missing or malformed."""

    code = "data"


class BundleError(ServingError):
    """A model bundle is missing, incomplete or damaged."""

    code = "bundle"


class ConfigError(ServingError):
    """A parameter file or a notebook parameter is wrong."""

    code = "config"


class HostLost(ServingError):
    """A machine of a cluster, or what we run on it, is gone: what it measured may be measured elsewhere."""

    code = "host"


_ON_THE_WIRE = (
    BadRequest, NotImplementedHere, ServerUnavailable, Overloaded, RequestTimeout, Unauthorized, RemoteFailure,
)  # fmt: skip
_BY_CODE: dict[str, type[ServingError]] = {kind.code: kind for kind in _ON_THE_WIRE}


def from_code(code: str, message: str) -> ServingError:
    """Return the typed error for a failure received from a server; an unknown code becomes `RemoteFailure`."""
    error = _BY_CODE.get(code, RemoteFailure)(message)
    if isinstance(error, ServerUnavailable):
        error.answered = True
    return error


CODES = ("", "bad_request", "unavailable", "overloaded", "timeout", "unauthorized", "not_implemented", "internal")
"""Where codes are counted, and between processes, a code is its place here; the first one is that of an answer."""


def code_number(error: BaseException) -> int:
    """Return the place of an error's code among `CODES`."""
    code = error.code if isinstance(error, ServingError) else RemoteFailure.code
    return CODES.index(code) if code in CODES else len(CODES) - 1


def wire_code(error: BaseException) -> str:
    """Return the code under which `error` travels; anything a client cannot act on is `internal`."""
    if isinstance(error, ServingError) and error.code in _BY_CODE:
        return error.code
    return RemoteFailure.code


UNFORESEEN = "the server failed while working on this request; its log says why"


def words_of(error: BaseException) -> str:
    """Return an error's words for a stranger: what was not foreseen keeps its own, which may name anything."""
    return str(error) if isinstance(error, ServingError) else UNFORESEEN


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known name, and the whole list of known names."""
    import difflib  # noqa: PLC0415 - most processes never need it

    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{hint} (known: {', '.join(names)})"
