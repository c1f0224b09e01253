"""Clients of the HTTP service: one keeps its connection, one forks curl for every request as published."""

from __future__ import annotations

import functools
import shutil
import subprocess
from abc import abstractmethod
from pathlib import Path
from time import perf_counter_ns
from typing import NoReturn

import httptools
import msgspec

from imdb_serving.clients.base import Client, ConnectedClient
from imdb_serving.clients.http_connection import (
    Answer,
    AnswerParser,
    HttpConnection,
    check_timeout,
    header_of,
    late,
    split_endpoint,
    too_long,
)
from imdb_serving.config import DEFAULT_HTTP_ENDPOINT, DEFAULT_TIMEOUT, MAX_ANSWER_BYTES
from imdb_serving.errors import BadRequest, RemoteFailure, RequestTimeout, ServerUnavailable, Unauthorized, from_code
from imdb_serving.keys import read_token
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.protocol import json_bodies
from imdb_serving.protocol.json_bodies import JSON, PREDICTION_PATH, READY_PATH, TIMEOUT_HEADER
from imdb_serving.timing import ClockFilter, Stage, client_stages

START_ONE = '; start one with "imdb-serving flask ..."'
CURL_TOO_LONG = 63
CURL_NO_HTTP = (1, 8)  # curl's numbers for an answer that is no HTTP, or of an ancient version
_BY_STATUS = {401: Unauthorized, 503: ServerUnavailable, 504: RequestTimeout}


class _Record(msgspec.Struct, frozen=True, gc=False):
    """A request's stamps as the client took them, and the answer's head, whose `Server-Timing` has the server's."""

    start_ns: int
    encoded_ns: int
    arrived_ns: int
    decoded_ns: int
    head: bytes
    clocks: ClockFilter

    def stages(self) -> list[Stage]:
        """Return the stages of `client_infer`; raise `RemoteFailure` when the header cannot be read."""
        server, clock = json_bodies.parse_timing(header_of(self.head, b"server-timing"))
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
        check_timeout(timeout)
        parts = split_endpoint(endpoint)
        self.endpoint = endpoint.rstrip("/")
        self.timeout = timeout
        self.max_answer_bytes = max_answer_bytes
        self._authorizing = f"Authorization: Bearer {read_token(token_file)}\r\n" if token_file else ""
        self._netloc, self._prefix = parts.netloc, parts.path.rstrip("/")
        self._clocks = ClockFilter()

    def _call(self, request: Request) -> Reply:
        start = perf_counter_ns()
        body = json_bodies.encode_request(request)
        encoded = perf_counter_ns()
        answer = self._exchange("POST", PREDICTION_PATH, body)
        arrived = perf_counter_ns()
        if answer.status != 200:
            self._raise_for(answer)
        outputs = json_bodies.decode_reply(answer.body, request.samples)
        for name in request.fetch:
            if name not in outputs:
                raise RemoteFailure(f"{self.endpoint} answered without {name}; is it another service?")
        return Reply(outputs, _Record(start, encoded, arrived, perf_counter_ns(), answer.head, self._clocks))

    def _hello(self) -> ServerInfo:
        answer = self._exchange("GET", READY_PATH, b"")
        if answer.status != 200:
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
    def _raise_for(answer: Answer) -> NoReturn:
        code, words = json_bodies.decode_problem(answer.body)
        if code is not None:
            raise from_code(code, words)
        kind = _BY_STATUS.get(answer.status, BadRequest if 400 <= answer.status < 500 else RemoteFailure)
        raise kind(f"the server answered with status {answer.status}{words and ': ' + words}")


class _Ready(msgspec.Struct):
    status: str
    server: ServerInfo | None = None


class HttpClient(_HttpExchange, ConnectedClient):
    """A client of one HTTP server that keeps its connection, for use in one thread.

    >>> with HttpClient("http://127.0.0.1:9294") as client:  # doctest: +SKIP
    ...     client.predict({"words": "A fine film"})

    After an error the same object can be used again.
    """

    _begun: tuple[float, str, bytes] = 0.0, "", b""
    """What requests to one path with one timeout begin with."""

    @functools.cached_property
    def _connection(self) -> HttpConnection:
        return HttpConnection(self.endpoint, self.max_answer_bytes, START_ONE)

    def _after_fork(self) -> None:
        self._close()  # that ends the connection for this process alone

    def _close(self) -> None:
        self._connection.close()

    def _is_lost(self) -> bool:
        return self._connection.is_lost()

    def _exchange(self, method: str, path: str, body: bytes) -> Answer:
        timeout, kept_path, begun = self._begun
        if timeout != self.timeout or kept_path != path:
            timeout, begun = self.timeout, self._begin(method, path)
            self._begun = timeout, path, begun
        return self._connection.exchange(b"%b%d\r\n\r\n%b" % (begun, len(body), body), timeout)

    def _begin(self, method: str, path: str) -> bytes:
        lines = (
            f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._netloc}\r\nContent-Type: {JSON}\r\n"
            f"{TIMEOUT_HEADER}: {self.timeout:g}\r\n{self._authorizing}Content-Length: "
        )
        return lines.encode("latin-1")


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
            raise late(self.endpoint, self.timeout) from error
        if done.returncode == 28:  # curl's number for a time-out
            raise late(self.endpoint, self.timeout)
        if done.returncode == CURL_TOO_LONG or len(done.stdout) > self.max_answer_bytes:
            raise RemoteFailure(too_long(self.endpoint, self.max_answer_bytes))
        if done.returncode in CURL_NO_HTTP:
            raise RemoteFailure(f"{self.endpoint} does not speak HTTP: {_words(done.stderr)}")
        if done.returncode:
            raise ServerUnavailable(f"no server answers at {self.endpoint} ({_words(done.stderr)}){START_ONE}")
        parser = AnswerParser()
        try:
            parser.feed(done.stdout)
        except httptools.HttpParserError as error:
            raise RemoteFailure(f"{self.endpoint} does not speak HTTP: {error}") from error
        if (answer := parser.close()) is None:
            raise RemoteFailure(f"{self.endpoint} answered with half an answer")
        return answer


def _words(errors: bytes) -> str:
    return errors.decode("utf-8", "replace").strip()
