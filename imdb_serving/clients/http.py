"""Clients of the HTTP service: one keeps its connection, one forks curl for every request as published."""

from __future__ import annotations

import shutil
import socket
import subprocess
from abc import abstractmethod
from pathlib import Path
from time import perf_counter_ns
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools
import msgspec

from imdb_serving.clients.base import Client, ConnectedClient
from imdb_serving.clients.sockets import LONG, RESTED_NS, KernelTimedSocket
from imdb_serving.config import DEFAULT_HTTP_ENDPOINT, DEFAULT_TIMEOUT, MAX_ANSWER_BYTES, MAX_TIMEOUT
from imdb_serving.errors import BadRequest, RemoteFailure, RequestTimeout, ServerUnavailable, Unauthorized, from_code
from imdb_serving.keys import read_token
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.protocol import json_bodies
from imdb_serving.protocol.json_bodies import JSON, PREDICTION_PATH, READY_PATH, TIMEOUT_HEADER
from imdb_serving.timing import ClockFilter, Stage, client_stages

RECEIVE_BYTES = 1 << 14
CURL_TOO_LONG = 63
CURL_NO_HTTP = (1, 8)  # curl's numbers for an answer that is no HTTP, or of an ancient version
_BY_STATUS = {401: Unauthorized, 503: ServerUnavailable, 504: RequestTimeout}


class Answer(NamedTuple):
    """What came back: status, `Server-Timing`, body, and whether the connection may be used again."""

    status: int
    timing: str
    body: bytes
    keep: bool


class _Parser:
    """Gathers one answer from the callbacks of httptools."""

    def __init__(self) -> None:
        self.timing: list[str] = []
        self.body: list[bytes] = []
        self.answer: Answer | None = None
        self._ends_by_closing = False
        self._sized = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:  # this one is no HttpParserError
            raise httptools.HttpParserError("it switched to another protocol") from error

    def on_message_begin(self) -> None:
        if self.answer is not None:  # more than was asked for: it must not become the next request's answer
            self.answer = self.answer._replace(keep=False)

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"server-timing":
            self.timing.append(value.decode("latin-1"))
        elif name in {b"content-length", b"transfer-encoding"}:
            self._sized = True

    def on_headers_complete(self) -> None:
        self._ends_by_closing, self._sized = not self._sized, False

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.answer is None and status >= 200:  # below 200 it is interim, and the answer follows
            keep = self._parser.should_keep_alive()
            self.answer = Answer(status, ", ".join(self.timing), b"".join(self.body), keep)
        self._ends_by_closing = False
        self.timing.clear()
        self.body.clear()

    def close(self) -> Answer | None:
        """Return the answer of a connection that was closed; None when it is not whole.

        Without a length it ends with the connection (RFC 9112, 6.3).
        """
        if self.answer is None and self._ends_by_closing:
            self.answer = Answer(self._parser.get_status_code(), ", ".join(self.timing), b"".join(self.body), False)
        return self.answer


class _Record(msgspec.Struct, frozen=True, gc=False):
    """A request's stamps as the client took them, and the `Server-Timing` header with the server's."""

    start_ns: int
    encoded_ns: int
    arrived_ns: int
    decoded_ns: int
    timing: str
    clocks: ClockFilter

    def stages(self) -> list[Stage]:
        """Return the stages of `client_infer`; raise `RemoteFailure` when the header cannot be read."""
        server, clock = json_bodies.parse_timing(self.timing)
        sent, received = (self.start_ns, self.encoded_ns), (self.arrived_ns, self.decoded_ns)
        if not server:  # a proxy dropped the header: the server's part cannot be told from the journeys
            return [Stage("encode", *sent), Stage("send", sent[1], received[0]), Stage("decode", *received)]
        return client_stages(sent, server, received, clock, self.clocks)

    def clock_bound_ns(self) -> int:
        return self.clocks.bound_ns(self.arrived_ns)


class _HttpExchange(Client):
    """What both clients share: the endpoint, and the way from a request to a reply or a typed error."""

    def __init__(
        self,
        endpoint: str = DEFAULT_HTTP_ENDPOINT,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        token_file: Path | None = None,
    ) -> None:
        """Take the server's address; no connection is made yet. `timeout` is each request's deadline in seconds."""
        super().__init__()
        if not 0 < timeout <= MAX_TIMEOUT:
            raise BadRequest(f"timeout must be above 0 and at most {MAX_TIMEOUT:.0f} seconds, got {timeout}")
        try:
            parts = urlsplit(endpoint)
            port = 80 if parts.port is None else parts.port
            endpoint.encode("ascii")
            (parts.hostname or "").encode("idna")  # as looking up the host does, which would raise the same
        except ValueError as error:
            raise BadRequest(f"cannot use the endpoint {endpoint!r}: {error}") from error
        if parts.scheme != "http" or not parts.hostname or " " in endpoint or not endpoint.isprintable():
            raise BadRequest(f"cannot use the endpoint {endpoint!r}: expected http://HOST:PORT")
        self.endpoint = endpoint.rstrip("/")
        self.timeout = timeout
        self.max_answer_bytes = max_answer_bytes
        self._authorizing = f"Authorization: Bearer {read_token(token_file)}\r\n" if token_file else ""
        self._host, self._port, self._netloc = parts.hostname, port, parts.netloc
        self._prefix = parts.path.rstrip("/")
        self._clocks = ClockFilter()

    def _call(self, request: Request) -> Reply:
        start = perf_counter_ns()
        body = json_bodies.encode_request(request)
        encoded = perf_counter_ns()
        answer = self._exchange("POST", PREDICTION_PATH, body)
        arrived = perf_counter_ns()
        self._raise_for(answer)
        outputs = json_bodies.decode_reply(answer.body, request.samples)
        if missing := [name for name in request.fetch if name not in outputs]:
            raise RemoteFailure(f"{self.endpoint} answered without {', '.join(missing)}; is it another service?")
        return Reply(outputs, _Record(start, encoded, arrived, perf_counter_ns(), answer.timing, self._clocks))

    def _hello(self) -> ServerInfo:
        answer = self._exchange("GET", READY_PATH, b"")
        self._raise_for(answer)
        try:
            info = msgspec.json.decode(answer.body, type=_Ready).server
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise RemoteFailure(f"{self.endpoint} answered hello with something else: {error}") from error
        if info is None:
            raise Unauthorized(f"{self.endpoint} requires its bearer token")
        return info

    @abstractmethod
    def _exchange(self, method: str, path: str, body: bytes) -> Answer:
        """Send one HTTP request and return the answer, within the deadline."""

    @staticmethod
    def _raise_for(answer: Answer) -> None:
        if answer.status == 200:
            return
        code, words = json_bodies.decode_problem(answer.body)
        if code is not None:
            raise from_code(code, words)
        kind = _BY_STATUS.get(answer.status, BadRequest if 400 <= answer.status < 500 else RemoteFailure)
        raise kind(f"the server answered with status {answer.status}{words and ': ' + words}")

    def _unavailable(self, why: object) -> ServerUnavailable:
        return ServerUnavailable(
            f'no server answers at {self.endpoint} ({why}); start one with "imdb-serving flask ..."'
        )

    def _too_long(self) -> str:
        return f"the answer of {self.endpoint} is longer than the {self.max_answer_bytes} bytes that this client reads"

    def _late(self) -> RequestTimeout:
        return RequestTimeout(f"no reply from {self.endpoint} in {self.timeout} s; raise the timeout or lower the load")


class _Ready(msgspec.Struct):
    status: str
    server: ServerInfo | None = None


class HttpClient(_HttpExchange, ConnectedClient):
    """A client of one HTTP server that keeps its connection, for use in one thread.

    >>> with HttpClient("http://127.0.0.1:9294") as client:  # doctest: +SKIP
    ...     client.predict({"words": "A fine film"})

    After an error the same object can be used again.
    """

    _socket: KernelTimedSocket | None = None
    _used_ns = 0

    def _after_fork(self) -> None:
        self._close()  # that ends the connection for this process alone

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _is_lost(self) -> bool:
        return self._socket is not None and self._socket.is_readable()

    def _exchange(self, method: str, path: str, body: bytes) -> Answer:
        begun_ns = perf_counter_ns()
        deadline_ns = begun_ns + int(self.timeout * 1e9)
        message = (
            f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._netloc}\r\nContent-Type: {JSON}\r\n"
            f"Content-Length: {len(body)}\r\n{TIMEOUT_HEADER}: {self.timeout:g}\r\n{self._authorizing}\r\n"
        ).encode("latin-1") + body
        if self._socket is not None and begun_ns > self._used_ns + RESTED_NS and self._socket.is_readable():
            self._close()  # nothing was asked, so this is its end, or words that are no answer to what we ask now
        kept = self._socket is not None
        try:
            answer = self._send(message, deadline_ns)
            if answer is None and kept:
                # The server closed a connection that had been idle; it never saw the request, so it is sent again.
                self._close()
                answer = self._send(message, deadline_ns)
        except (TimeoutError, BlockingIOError):
            self._close()
            raise self._late() from None
        except OSError as error:
            self._close()
            raise self._unavailable(error.strerror or error) from error
        except httptools.HttpParserError as error:
            self._close()
            raise RemoteFailure(f"{self.endpoint} does not speak HTTP: {error}") from error
        except BaseException:  # Ctrl-C, say: the answer that comes yet must not be taken for the next one's
            self._close()
            raise
        if answer is None or not answer.keep:
            self._close()
        if answer is None:
            raise self._unavailable("it closed the connection without an answer")
        return answer

    def _send(self, message: bytes, deadline_ns: int) -> Answer | None:
        """Send and receive on the one connection; returns None when it was closed before an answer began."""
        if self._socket is None:
            left = max(0.001, (deadline_ns - perf_counter_ns()) / 1e9)
            self._socket = KernelTimedSocket(socket.create_connection((self._host, self._port), left))
        try:
            self._socket.limit(self.timeout)
            sent = self._socket.send(message)
            if sent != len(message):
                self._socket.send_rest(message, sent, deadline_ns)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have refused the request while we sent it: what it said is still to be read
        return self._receive(self._socket, deadline_ns, len(message) >= LONG)

    def _receive(self, connection: KernelTimedSocket, deadline_ns: int, was_long: bool) -> Answer | None:
        """Return the next answer; `was_long` says that sending may have taken a part of the time that was left."""
        parser = _Parser()
        begun, read = False, 0
        while parser.answer is None:
            if begun or was_long:
                connection.await_more(deadline_ns)
            try:
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
            if read > self.max_answer_bytes:
                self._close()
                raise RemoteFailure(self._too_long())
            parser.feed(data)
        self._used_ns = perf_counter_ns()
        return parser.answer


class CurlClient(_HttpExchange):
    """Forks curl for every request, as the published clients do; no connection is kept."""

    def call(self, request: Request) -> Reply:
        return self._call(request)

    def hello(self) -> ServerInfo:
        return self._hello()

    def close(self) -> None:
        """Do nothing: every curl has ended with its request."""

    def _exchange(self, method: str, path: str, body: bytes) -> Answer:
        curl = shutil.which("curl")
        if curl is None:
            raise BadRequest("there is no curl here; install it, or leave out --http-client curl")
        command = [curl, "--disable", "--noproxy", "*"]  # neither a curlrc, for which this must come first, nor a proxy
        command += ["--silent", "--show-error", "--include", "--raw", "--max-filesize", str(self.max_answer_bytes)]
        command += ["--max-time", f"{self.timeout:.3f}"]
        command += ["-X", method, "-H", f"Content-Type:{JSON}", "-H", f"{TIMEOUT_HEADER}: {self.timeout:g}"]
        if self._authorizing:
            raise BadRequest("curl would show the token to all users of this machine; use the keep-alive client")
        command += ["-H", "Expect:", "--data-binary", "@-"] if body else []
        try:
            done = subprocess.run(
                [*command, self.endpoint + path], input=body, capture_output=True, timeout=self.timeout + 5, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise self._late() from error
        if done.returncode == 28:  # curl's number for a time-out
            raise self._late()
        if done.returncode == CURL_TOO_LONG or len(done.stdout) > self.max_answer_bytes:
            raise RemoteFailure(self._too_long())
        if done.returncode in CURL_NO_HTTP:
            raise RemoteFailure(f"{self.endpoint} does not speak HTTP: {_words(done.stderr)}")
        if done.returncode:
            raise self._unavailable(_words(done.stderr))
        parser = _Parser()
        try:
            parser.feed(done.stdout)
        except httptools.HttpParserError as error:
            raise RemoteFailure(f"{self.endpoint} does not speak HTTP: {error}") from error
        if (answer := parser.close()) is None:
            raise RemoteFailure(f"{self.endpoint} answered with half an answer")
        return answer


def _words(errors: bytes) -> str:
    return errors.decode("utf-8", "replace").strip()
