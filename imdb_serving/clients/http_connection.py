"""One kept connection to an HTTP/1.1 server: the bytes of a request go out, its answer comes in. Knows no body.

Nearly all answers arrive in one piece, with their length in the head: these are read as they are. Anything else goes
through httptools.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from time import perf_counter_ns
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import httptools

from imdb_serving.clients.sockets import LONG, RESTED_NS, KernelTimedSocket
from imdb_serving.config import MAX_TIMEOUT
from imdb_serving.errors import BadRequest, RemoteFailure, RequestTimeout, ServerUnavailable

RECEIVE_BYTES = 1 << 14
MOST_HEADS = 256


class Answer(NamedTuple):
    """What came back: status, head, body, whether the connection can be kept."""

    status: int
    head: bytes
    body: bytes
    keep: bool

    def header(self, name: bytes) -> str:
        """Return the values of a header, given in small letters, joined by commas; empty when there is none."""
        return header_of(self.head, name)


def header_of(head: bytes, name: bytes) -> str:
    """Return the values of a header, given in small letters, joined by commas; empty when there is none."""
    values = [line[len(name) + 1 :] for line in head.split(b"\r\n") if line.lower().startswith(name + b":")]
    return b", ".join(value.strip(b" \t") for value in values).decode("latin-1")


class AnswerParser:
    """Gathers one answer from the callbacks of httptools."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self._head: list[bytes] = []
        self._body: list[bytes] = []
        self._ends_by_closing = False
        self._sized = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take what was received; raise `HttpParserError` for what is no HTTP."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:  # this one is no HttpParserError
            raise httptools.HttpParserError("it switched to another protocol") from error

    def on_message_begin(self) -> None:
        if self.answer is not None:  # more than was asked for: it must not become the next request's answer
            self.answer = self.answer._replace(keep=False)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head.append(name + b": " + value)
        if name.lower() in {b"content-length", b"transfer-encoding"}:
            self._sized = True

    def on_headers_complete(self) -> None:
        self._ends_by_closing, self._sized = not self._sized, False

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.answer is None and status >= 200:  # below 200 it is interim, and the answer follows
            self.answer = self._gathered(status, self._parser.should_keep_alive())
        self._ends_by_closing = False
        self._head.clear()
        self._body.clear()

    def close(self) -> Answer | None:
        """Return the answer of a connection that was closed; None when it is not whole.

        Without a length it ends with the connection (RFC 9112, 6.3).
        """
        if self.answer is None and self._ends_by_closing:
            self.answer = self._gathered(self._parser.get_status_code(), keep=False)
        return self.answer

    def _gathered(self, status: int, keep: bool) -> Answer:
        return Answer(status, b"\r\n".join(self._head), b"".join(self._body), keep)


_TEXT = bytes([9, *range(32, 127)])
_LENGTH = b"\r\ncontent-length:"
_TIMING = b"\r\nServer-Timing: "
_OTHERWISE = (b"\r\nconnection:", b"\r\ntransfer-encoding:", b"\r\n ", b"\r\n\t")
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5]\d\d) ")


class PlainAnswers:
    """Reads answers that arrived in one piece; of a server's heads it remembers those that it has seen.

    What a head says is not looked at twice: of one server's heads little changes but the date and what it timed.
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, tuple[int, int]] = {}

    def read(self, data: bytes) -> Answer | None:
        """Return the answer that `data` is, from its first byte to its last, where that is plain to see; else None."""
        end = data.find(b"\r\n\r\n")
        varies = data.find(_TIMING, 0, end)
        head = data[: end if varies < 0 else varies]
        known = self._heads.get(head)
        if known is None:
            known = _plain_head(head) if end >= 0 else None
            if known is None:
                return None
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()
            self._heads[head] = known
        status, length = known
        if len(data) != end + 4 + length or (varies >= 0 and data.find(b"\r\n", varies + 2) != end):
            return None
        return Answer(status, data[:end], data[end + 4 :], True)


def _plain_head(head: bytes) -> tuple[int, int] | None:
    """Return the status and the body's length when a head has just these, nothing else that matters, and is ASCII."""
    status = _STATUS.match(head)
    small = head.lower()
    _, found, rest = small.partition(_LENGTH)
    length = rest.partition(b"\r\n")[0].strip(b" \t")
    ends = head.translate(None, _TEXT)
    if (
        status is None
        or not found
        or not (length.isdigit() and len(length) < 12)
        or any(name in rest for name in (_LENGTH, _TIMING.lower()))
        or any(name in small for name in _OTHERWISE)
        or ends != b"\r\n" * (len(ends) // 2)
        or int(status[1]) in {204, 304}
    ):
        return None
    return int(status[1]), int(length)


def split_endpoint(endpoint: str, schemes: Sequence[str] = ("http",)) -> SplitResult:
    """Return the parts of `http://HOST:PORT/...`, or of another scheme; raise `BadRequest` for anything else."""
    try:
        parts = urlsplit(endpoint)
        _ = parts.port
        endpoint.encode("ascii")
        (parts.hostname or "").encode("idna")  # as looking up the host does, which would raise the same
    except ValueError as error:
        raise BadRequest(f"cannot use the endpoint {endpoint!r}: {error}") from error
    if parts.scheme not in schemes or not parts.hostname or " " in endpoint or not endpoint.isprintable():
        raise BadRequest(f"cannot use the endpoint {endpoint!r}: expected {' or '.join(schemes)}://HOST:PORT")
    return parts


def check_timeout(seconds: float) -> None:
    """Raise `BadRequest` for a deadline that is none."""
    if not 0 < seconds <= MAX_TIMEOUT:
        raise BadRequest(f"timeout must be above 0 and at most {MAX_TIMEOUT:.0f} seconds, got {seconds}")


class HttpConnection:
    """A connection to one server, made with the first request and kept while the server keeps it; for one thread.

    Errors name the endpoint. After one, the next request makes another connection.
    """

    def __init__(self, endpoint: str, max_answer_bytes: int, remedy: str = "") -> None:
        """Take `http://HOST:PORT`, the longest answer that is read, and what to do when no server is there."""
        parts = split_endpoint(endpoint)
        self.endpoint, self._max_answer_bytes, self._remedy = endpoint, max_answer_bytes, remedy
        self._address = parts.hostname or "", 80 if parts.port is None else parts.port
        self._socket: KernelTimedSocket | None = None
        self._used_ns = 0
        self._read_plain = PlainAnswers().read

    def exchange(self, message: bytes, timeout: float, *, once: bool = False) -> Answer:
        """Send a request and return its answer within so many seconds, or raise a typed error.

        When the server turns out to have closed a connection that had been idle, it never saw the request, and it is
        sent again: unless it is to be sent `once`.
        """
        begun_ns = perf_counter_ns()
        deadline_ns = begun_ns + int(timeout * 1e9)
        connection = self._socket
        if connection is not None and begun_ns > self._used_ns + RESTED_NS and connection.is_readable():
            self.close()  # nothing was asked, so this is its end, or words that are no answer to what we ask now
            connection = None
        try:
            answer = self._send(message, timeout, deadline_ns)
            if answer is None and connection is not None and not once:
                self.close()
                answer = self._send(message, timeout, deadline_ns)
        except (TimeoutError, BlockingIOError):
            self.close()
            raise late(self.endpoint, timeout) from None
        except OSError as error:
            self.close()
            raise self._unavailable(error.strerror or error) from error
        except httptools.HttpParserError as error:
            self.close()
            raise RemoteFailure(f"{self.endpoint} does not speak HTTP: {error}") from error
        except BaseException:  # Ctrl-C, say: the answer that comes yet must not be taken for the next one's
            self.close()
            raise
        if answer is None or not answer.keep:
            self.close()
        if answer is None:
            raise self._unavailable("it closed the connection without an answer")
        return answer

    def _connected(self, timeout: float) -> KernelTimedSocket:
        self._socket = KernelTimedSocket(socket.create_connection(self._address, timeout))
        return self._socket

    def is_lost(self) -> bool:
        """Tell whether the connection is known to be of no use any more."""
        return self._socket is not None and self._socket.is_readable()

    def close(self) -> None:
        """End the connection, for this process alone."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: bytes, timeout: float, deadline_ns: int) -> Answer | None:
        """Send and receive on the one connection; returns None when it was closed before an answer began."""
        connection = self._socket or self._connected(max(0.001, (deadline_ns - perf_counter_ns()) / 1e9))
        size = len(message)
        data = None
        try:
            if timeout != connection.seconds:
                connection.limit(timeout)
            sent = connection.send(message)
            if sent != size:
                connection.send_rest(message, sent, deadline_ns)
            if size < LONG:
                data = connection.recv(RECEIVE_BYTES)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have refused the request while we sent it: what it said is still to be read
        answer = self._read_plain(data) if data and len(data) <= self._max_answer_bytes else None
        if answer is None:
            answer = self._receive(connection, data, deadline_ns)
        self._used_ns = perf_counter_ns()
        return answer

    def _receive(self, connection: KernelTimedSocket, data: bytes | None, deadline_ns: int) -> Answer | None:
        """Return the next answer, which `data` begins if there is any; wait until the deadline for the rest."""
        parser = AnswerParser()
        begun, read = False, 0
        while parser.answer is None:
            try:
                if data is None:
                    connection.await_more(deadline_ns)
                    data = connection.recv(RECEIVE_BYTES)
                is_whole = not data and parser.close() is not None
            except ConnectionResetError:
                data, is_whole = b"", False
            if is_whole:
                break
            if not data:
                if begun:
                    raise ConnectionError("it closed the connection in the middle of an answer")
                return None
            begun = True
            read += len(data)
            if read > self._max_answer_bytes:
                self.close()
                raise RemoteFailure(too_long(self.endpoint, self._max_answer_bytes))
            parser.feed(data)
            data = None
        return parser.answer

    def _unavailable(self, why: object) -> ServerUnavailable:
        return ServerUnavailable(f"no server answers at {self.endpoint} ({why}){self._remedy}")


def too_long(endpoint: str, limit: int) -> str:
    """Return what is wrong with an answer that is not read to its end."""
    return f"the answer of {endpoint} is longer than the {limit} bytes that this client reads"


def late(endpoint: str, timeout: float) -> RequestTimeout:
    """Return the error of a request without an answer in time."""
    return RequestTimeout(f"no reply from {endpoint} in {timeout} s; raise the timeout or lower the load")
