"""HTTP requests from bytes, by httptools: what a connection has sent so far becomes requests or a refusal. No I/O.

httptools (llhttp) frames messages as RFC 9112 says. Added here: what it lets pass although the RFC has a server refuse
it, limits on everything that a client can send, and the body of a request that offers an upgrade.
"""

from __future__ import annotations

import functools
import io
import mmap
import re
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from time import perf_counter_ns
from urllib.parse import unquote_to_bytes

import httptools

MAX_HEAD_BYTES = 1 << 16
"""Of a request's head; and of chunk sizes, chunk extensions or trailers between two bytes of the body, or behind it."""

MAX_FIELDS = 128
"""Header fields of a request."""

FRAMING_SHARE = 8
"""Bytes of chunk framing that may come with each byte of a body, beside `MAX_HEAD_BYTES`."""

REQUEST_BYTES = 2048
"""Memory that a request takes beside its head and body, about."""

FIELD_BYTES = 192
"""Memory that a header field takes beside its text, about."""

FRAMING = frozenset({b"content-length", b"transfer-encoding", b"expect"})
_METHOD = re.compile(rb"[\r\n]*[!#-'*+\-.0-9A-Z^_`a-z|~]+ ")
_HOST = re.compile(rb"[^\s,/?#@\\]*")


@dataclass(slots=True)
class HttpRequest:
    """A whole request, or what is wrong with one: then `refusal` says it, and nothing can be read behind it."""

    method: str = ""
    path: str = ""
    """The target's path: percent-encoding decoded, then read as Latin-1, with one slash at its beginning."""
    query: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    version: str = "1.1"
    keep: bool = False
    received_ns: int = 0
    refusal: tuple[HTTPStatus, str] | None = None

    def header(self, name: bytes) -> bytes | None:
        """Return a header by its name in lower case; one that comes several times is joined by commas."""
        return b",".join(values) if (values := [value for key, value in self.headers if key == name]) else None

    def list_header(self, name: bytes) -> list[bytes]:
        """Return the elements of a header that is a list, in lower case, from all fields of that name."""
        values = b",".join(value for key, value in self.headers if key == name)
        return [element for each in values.split(b",") if (element := each.strip().lower())]

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return REQUEST_BYTES + len(self.body) + FIELD_BYTES * len(self.headers)


class Refused(Exception):
    """What has arrived can be no request of this server's; carries status and words."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


LARGE_BODY = 1 << 20


class _Parts:
    """The parts of a body, `most` bytes at most, one behind the other.

    A large body has memory of its own, which is taken from the system as it is written. Growing it within the heap
    would leave holes there, of up to twice its size.
    """

    def __init__(self, first: bytes, most: int) -> None:
        self._most, self._size = most, 0
        self._memory: io.BytesIO | mmap.mmap = io.BytesIO()
        self.add(first)

    def add(self, part: bytes) -> None:
        if isinstance(self._memory, io.BytesIO) and self._size + len(part) > LARGE_BODY:
            with suppress(OSError):  # a process may be allowed no more: then it stays in the heap
                own = mmap.mmap(-1, self._most)
                own.write(self._memory.getbuffer())
                self._memory = own
        self._memory.write(part)
        self._size += len(part)

    def whole(self) -> bytes:
        if isinstance(self._memory, io.BytesIO):
            return self._memory.getvalue()  # no second copy
        with self._memory as own:
            return own[: self._size]


class RequestParser:
    """Reads one connection's bytes.

    `requests` are those that are complete, in order; `awaits_continue` says that a client waits for the word to send
    the body of a request whose head has been read.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self.requests: list[HttpRequest] = []
        self.completed = 0
        self._max_body = max_body_bytes
        self._over = False
        self._host = b""  # the last one that was sound
        self._parser = httptools.HttpRequestParser(self)
        self._begin()

    def _begin(self) -> None:
        self._request = HttpRequest()
        self.url: list[bytes] = []
        self._body = b""
        self._parts: _Parts | None = None  # of a body that comes in several
        self._body_size = 0
        # Bytes read for this request, and since the last one of its body; those of the read in which it began, or in
        # which that one came, are not among them.
        self.fed = self._since_body = 0
        self._in_head = True
        self._upgrades = self._replays = False
        self.awaits_continue = False

    def feed(self, data: bytes) -> None:
        """Read more bytes. What cannot be read becomes a request with a `refusal`, the last one."""
        if self._over:
            return
        before = self.completed
        try:
            self._feed(data)
        except (httptools.HttpParserError, Refused) as error:
            refused = error if isinstance(error, Refused) else error.__context__
            if isinstance(refused, Refused):
                self.refuse(refused.status, refused.detail)
            elif isinstance(error, httptools.HttpParserInvalidMethodError) and (
                self.completed == before and self.fed == len(data) and _METHOD.match(data)
            ):
                self.refuse(HTTPStatus.NOT_IMPLEMENTED, "this server does not know the request's method")
            else:
                self.refuse(HTTPStatus.BAD_REQUEST, f"this is not HTTP as this server reads it: {error}")

    def refuse(self, status: HTTPStatus, detail: str) -> None:
        """Put a request with a refusal behind all others, and read no more."""
        self.requests.append(HttpRequest(refusal=(status, detail), received_ns=perf_counter_ns()))
        self._over = True
        self._begin()

    @property
    def begun_bytes(self) -> int:
        """Bytes of the request that is not whole yet; 0 when none has begun."""
        body = self._body_size
        if not (self.fed or self.url or body):
            return 0
        return max(1, min(self.fed - body, MAX_HEAD_BYTES)) + body

    @property
    def held_bytes(self) -> int:
        """About how many bytes of memory all requests take that are whole, or have begun."""
        begun = self.begun_bytes
        if not begun and not self.requests:
            return 0
        fields = FIELD_BYTES * len(self._request.headers)
        return begun + fields + sum(request.size for request in self.requests)

    def _feed(self, data: bytes) -> None:
        self.fed += len(data)
        self._since_body += len(data)
        rest = memoryview(data)
        while rest:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                self._ignore_upgrade()
            else:
                break
        body = self._body_size
        if self._since_body > MAX_HEAD_BYTES or self.fed - body > MAX_HEAD_BYTES + FRAMING_SHARE * body:
            raise self._head_too_large()

    def _ignore_upgrade(self) -> None:
        """Go on behind the head of a request that offers another protocol, which a server may ignore (RFC 9110, 7.8).

        The parser stops there and takes the request as one without a body. Another one is shown the fields again that
        say how long the body is.
        """
        request = self._request
        kept = [field for field in request.headers if field[0] in {b"content-length", b"transfer-encoding"}]
        options = [option for option in request.list_header(b"connection") if option != b"upgrade"]
        lines = [name + b": " + value for name, value in [*kept, (b"connection", b", ".join(options))]]
        self._upgrades, self._replays = False, True
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/%b\r\n%b\r\n\r\n" % (request.version.encode("ascii"), b"\r\n".join(lines)))
        self._replays = False

    def on_url(self, url: bytes) -> None:
        """Gather the target, which may come in parts."""
        if not self._replays:
            self.url.append(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Gather a header. Trailers are left out: they are no headers (RFC 9110, 6.5.1)."""
        if self._in_head:
            self._request.headers.append((name.lower(), value))
            if len(self._request.headers) > MAX_FIELDS:
                detail = f"the request has more than {MAX_FIELDS} header fields"
                raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)

    def on_headers_complete(self) -> None:
        """Look at the head: whether the body may come."""
        if self._replays:
            return
        self._in_head = False
        request = self._request
        request.method = self._parser.get_method().decode("latin-1")
        request.version = self._parser.get_http_version()
        self._check_fields(request)
        if self._parser.should_upgrade():
            if request.method == "CONNECT":
                raise Refused(HTTPStatus.NOT_IMPLEMENTED, "this server is no proxy")
            self._upgrades = True
        target = b"".join(self.url)
        if target == b"*":
            request.path = "*"
        else:
            try:
                parts = httptools.parse_url(target)
            except httptools.HttpParserInvalidURLError as error:
                raise Refused(HTTPStatus.BAD_REQUEST, f"the request's target cannot be read: {error}") from error
            request.path, request.query = _path(parts.path or b"/"), parts.query or b""

    def _check_fields(self, request: HttpRequest) -> None:
        """Refuse what RFC 9112 has a server refuse and the parser lets pass, and what is too large."""
        size = hosts = 0
        for name, value in request.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts += 1
                if value != self._host:
                    self._host = _checked_host(value)
            elif name in FRAMING:
                self._check_field(request, name, value)
        if size > MAX_HEAD_BYTES:
            raise self._head_too_large()
        if request.version not in {"1.1", "1.0"}:
            detail = f"this server speaks HTTP/1.1, not HTTP/{request.version}"
            raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, detail)
        if hosts != 1 and (hosts or request.version == "1.1"):
            raise Refused(HTTPStatus.BAD_REQUEST, f"a request needs one Host header, this one has {hosts}")

    def _check_field(self, request: HttpRequest, name: bytes, value: bytes) -> None:
        if name == b"content-length":  # the parser has read it as a number
            if int(value) > self._max_body:
                raise self._too_large()
        elif name == b"expect":
            self.awaits_continue = request.version == "1.1" and value.lower() == b"100-continue"
        elif request.version == "1.0":
            raise Refused(HTTPStatus.BAD_REQUEST, "HTTP/1.0 has no Transfer-Encoding; send a Content-Length")
        elif request.list_header(name) != [b"chunked"]:
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "of the transfer encodings this server reads only chunked")

    def on_body(self, body: bytes) -> None:
        """Gather a part of the body."""
        if self._body_size + len(body) > self._max_body:
            raise self._too_large()
        if not self._body_size:
            self._body = body
        else:
            if self._parts is None:
                self._parts = _Parts(self._body, self._max_body)
            self._parts.add(body)
        self._body_size += len(body)
        self._since_body = 0
        self.awaits_continue = False

    def on_message_complete(self) -> None:
        """Finish a request, unless its body is still to be read."""
        if self._upgrades:
            return
        request = self._request
        request.body = self._body if self._parts is None else self._parts.whole()
        request.keep = self._parser.should_keep_alive()
        request.received_ns = perf_counter_ns()
        self.requests.append(request)
        self.completed += 1
        self._begin()

    @staticmethod
    def _head_too_large() -> Refused:
        detail = f"the head, or what is around the body, exceeds {MAX_HEAD_BYTES} bytes"
        return Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)

    def _too_large(self) -> Refused:
        return Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than this server takes, {self._max_body} bytes; send smaller batches",
        )


@functools.lru_cache(maxsize=64)
def _path(raw: bytes) -> str:
    """Return the path that both this server and its application go by.

    Werkzeug reads several slashes at the beginning as one. If only one of the two did so, a path could be a prediction
    for the application and none for the server.
    """
    return "/" + unquote_to_bytes(raw).lstrip(b"/").decode("latin-1")


def _checked_host(value: bytes) -> bytes:
    """Return the value of a Host header; raise `Refused` when it can name no host."""
    if not _HOST.fullmatch(value.strip()):
        raise Refused(HTTPStatus.BAD_REQUEST, "the Host header names no host")
    return value
