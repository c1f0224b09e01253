"""HTTP's requests at the server: what a worker does with them, by a WSGI application. No I/O."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from urllib.parse import quote

from imdb_serving.errors import CODES, Overloaded, ServingError
from imdb_serving.protocol import oip
from imdb_serving.protocol.framing import fingerprint_of
from imdb_serving.protocol.json_bodies import PREDICTION_PATH
from imdb_serving.server.http.parsing import HttpRequest, RequestParser
from imdb_serving.server.http.responses import (
    BODY,
    RECEIVED_NS,
    Application,
    base_environ,
    problem_of,
    request_seconds,
    respond,
)
from imdb_serving.server.request_queue import NO_HOPE
from imdb_serving.server.workers.carrier import Outcome, Question

HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)


def is_prediction(request: HttpRequest) -> bool:
    """Tell whether a request is for a worker."""
    return request.method == "POST" and (request.path == PREDICTION_PATH or oip.is_infer(request.path))


class HttpCarrier:
    """What a worker does with HTTP's requests; see `carrier.Carrier`.

    It reads a request whose length is told and that is all that has arrived; others are left to the supervisor, which
    passes them on in this form.
    """

    always_stamped = True

    def __init__(self, make_app: Callable[[], Application] | None, max_body_bytes: int, place: tuple[str, int]) -> None:
        """Take what makes the application, if it shall answer, the limit on bodies, and the server's host and port."""
        self._max_body, self._parser = max_body_bytes, RequestParser(max_body_bytes)
        self._environ = base_environ(*place)
        self._numbers = itertools.count(1)  # of requests, for the log
        if make_app is not None:
            app = make_app()
            self._app = app.wsgi_app
            self.stage_names: tuple[str, ...] = app.config.get("STAGE_NAMES", ())

    def read(self, data: bytes) -> Question | None:
        """Return the prediction that `data` is from its first byte to its last; None for everything else.

        None as well for one behind which the connection ends.
        """
        question = self.open(data)
        return question if question is not None and question.content.keep else None

    def open(self, message: bytes | HttpRequest) -> Question | None:
        """Return the prediction in a message that the supervisor has read; None for what it should not have passed."""
        request = message if isinstance(message, HttpRequest) else self._parse(message)
        if request is None or not is_prediction(request):
            return None
        size = 0 if request is message else len(message)  # type: ignore[arg-type]
        try:
            return Question(request, size, int(request_seconds(request) * 1e9), next(self._numbers))
        except ServingError:
            return None

    def _parse(self, data: bytes) -> HttpRequest | None:
        """Return the request that `data` is."""
        parser = self._parser
        parser.feed(data)
        request = parser.requests[0] if len(parser.requests) == 1 else None
        if request is None or request.refusal is not None or _size(data, request) != len(data):
            self._parser = RequestParser(self._max_body)
            return None
        if request.keep:
            parser.requests.clear()
        else:
            self._parser = RequestParser(self._max_body)  # this one reads nothing behind a last request
        return request

    @staticmethod
    def pack(request: HttpRequest) -> bytes:
        """Return a request that the supervisor has read as bytes for another process."""
        return encode(request)

    def missing(self, data: bytes) -> int:
        """Return how many bytes are missing of the request that begins with `data`; 0 if that cannot be told."""
        head = data.find(HEAD_END)
        found = _LENGTH.search(data, 0, head + 2) if head >= 0 else None
        if found is None or int(found[1]) > self._max_body:
            return 0
        return head + len(HEAD_END) + int(found[1]) - len(data)

    def answer(self, received_ns: int, request: HttpRequest) -> Outcome:
        """Return the answer's code, bytes and stages."""
        base = {**self._environ, RECEIVED_NS: received_ns, BODY: request.body}
        outcome, data = respond(self._app, request, base)
        return CODES.index(outcome.code), data, outcome.stages

    def shed(self, request: HttpRequest) -> Outcome:
        """Return the same for a request whose time is too short."""
        return CODES.index(Overloaded.code), problem_of(Overloaded(NO_HOPE), request), ()

    def fingerprint(self, message: bytes | HttpRequest) -> bytes:
        """Return bytes that are equal for two requests that ask the same."""
        body = message.body if isinstance(message, HttpRequest) else message.partition(HEAD_END)[2]
        return fingerprint_of([body])


def _size(data: bytes, request: HttpRequest) -> int:
    """Return how many bytes of `data` a request takes that is told by its head and its body alone."""
    return data.find(HEAD_END) + len(HEAD_END) + len(request.body)


def encode(request: HttpRequest) -> bytes:
    """Return a prediction that the supervisor has read as bytes for `HttpCarrier.open` in another process.

    It has no more fields than the request had, so that what was within the limits still is.
    """
    path = quote(request.path.encode("latin-1")) if oip.is_infer(request.path) else PREDICTION_PATH
    target = path.encode() + (b"?" + request.query if request.query else b"")
    lines = [b"POST %b HTTP/%b" % (target, request.version.encode())]
    framing = {b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"}
    lines += [name + b": " + value for name, value in request.headers if name not in framing]
    if request.keep != (request.version == "1.1"):  # then the request said so as well
        lines.append(b"Connection: keep-alive" if request.keep else b"Connection: close")
    if request.body:
        lines.append(b"Content-Length: %d" % len(request.body))
    return b"\r\n".join(lines) + HEAD_END + request.body
