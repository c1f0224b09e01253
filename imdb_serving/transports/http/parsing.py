"""HTTP requests from bytes, by httptools: what a connection has sent so far becomes requests or a refusal. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from time import perf_counter_ns

import httptools

MAX_HEAD_BYTES = 1 << 18


@dataclass(slots=True)
class HttpRequest:
    """A whole request, or what is wrong with one: then `refusal` says it, and nothing can be read behind it."""

    method: str = ""
    path: bytes = b""
    query: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    version: str = "1.1"
    keep: bool = False
    received_ns: int = 0
    refusal: tuple[HTTPStatus, str] | None = None

    def header(self, name: bytes) -> bytes | None:
        """Return a header by its name in lower case."""
        return next((value for key, value in self.headers if key == name), None)


class Refused(Exception):
    """What has arrived can be no request of this server's; carries status and words."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class RequestParser:
    """Reads one connection's bytes.

    `requests` are those that are complete, in order; `continues` counts those whose client waits for a word before it
    sends the body.
    """

    def __init__(self, max_body_bytes: int) -> None:
        """Take the limit on bodies."""
        self.requests: list[HttpRequest] = []
        self.continues = 0
        self._max_body = max_body_bytes
        self._over = False
        self._parser = httptools.HttpRequestParser(self)
        self._begin()

    def _begin(self) -> None:
        self._request = HttpRequest()
        self._url: list[bytes] = []
        self._body: list[bytes] = []
        self._body_bytes = self._head_bytes = 0
        self._in_head = True

    def feed(self, data: bytes) -> None:
        """Read more bytes. What cannot be read becomes a request with a `refusal`, the last one."""
        if self._over:
            return
        try:
            self._feed(data)
        except (httptools.HttpParserError, Refused) as error:
            refused = error if isinstance(error, Refused) else error.__context__
            if isinstance(refused, Refused):
                self.refuse(refused.status, refused.detail)
            else:
                self.refuse(HTTPStatus.BAD_REQUEST, f"this is not HTTP as this server reads it: {error}")

    def refuse(self, status: HTTPStatus, detail: str) -> None:
        """Put a request with a refusal behind all others, and read no more."""
        self.requests.append(HttpRequest(refusal=(status, detail), received_ns=perf_counter_ns()))
        self._over = True
        self._body, self._body_bytes = [], 0

    @property
    def begun_bytes(self) -> int:
        """Bytes of the body that is not whole yet."""
        return self._body_bytes

    def _feed(self, data: bytes) -> None:
        if self._in_head:
            if self._head_bytes > MAX_HEAD_BYTES:
                raise self._head_too_large()
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Another protocol is offered, which a server may ignore: the rest is read as what it was before.
            self._parser = httptools.HttpRequestParser(self)
            rest = data[upgrade.args[0] :]
            if rest:
                self._feed(rest)

    def on_url(self, url: bytes) -> None:
        """Gather the target, which may come in parts."""
        self._url.append(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Gather a header."""
        self._request.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Look at the head: whether the body may come."""
        self._in_head = False
        request = self._request
        if sum(len(name) + len(value) for name, value in request.headers) > MAX_HEAD_BYTES:
            raise self._head_too_large()
        request.method = self._parser.get_method().decode("latin-1")
        request.version = self._parser.get_http_version()
        try:
            target = httptools.parse_url(b"".join(self._url))
        except httptools.HttpParserInvalidURLError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the request's target cannot be read: {error}") from error
        request.path, request.query = target.path or b"/", target.query or b""
        length = request.header(b"content-length")
        if length is not None and length.isdigit() and int(length[:20]) > self._max_body:
            raise self._too_large()
        coding = request.header(b"transfer-encoding")
        if coding is not None and coding.strip().lower() != b"chunked":
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "of the transfer encodings this server reads only chunked")
        if (request.header(b"expect") or b"").lower() == b"100-continue" and request.version == "1.1":
            self.continues += 1

    def on_body(self, body: bytes) -> None:
        """Gather a part of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > self._max_body:
            raise self._too_large()
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Finish a request."""
        request = self._request
        request.body = b"".join(self._body)
        request.keep = self._parser.should_keep_alive()
        request.received_ns = perf_counter_ns()
        self.requests.append(request)
        self._begin()

    @staticmethod
    def _head_too_large() -> Refused:
        return Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the headers exceed {MAX_HEAD_BYTES} bytes")

    def _too_large(self) -> Refused:
        return Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than this server takes, {self._max_body} bytes; send smaller batches",
        )
