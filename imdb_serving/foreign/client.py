"""The client of a server of someone else: a body goes out, a value comes back. Knows neither what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, cast
from urllib.parse import urlsplit

import jmespath
import orjson

from imdb_serving.clients.base import ConnectedClient
from imdb_serving.clients.http_connection import Answer, HttpConnection, split_endpoint
from imdb_serving.clients.http_library import LibraryConnection, Route
from imdb_serving.config import MAX_ANSWER_BYTES
from imdb_serving.errors import REDIRECT, UNREADABLE, ConfigError, ServingError, UnexpectedAnswer
from imdb_serving.foreign import oip, oip_grpc
from imdb_serving.foreign.grpc_connection import GrpcConnection
from imdb_serving.foreign.templates import hide
from imdb_serving.messages import Array, Reply, Request, ServerInfo
from imdb_serving.timing import REMOTE, Stage

VALUE = "answer"
"""The name of an answer's value among a reply's outputs."""

OIP, OIP_GRPC = "oip", "oip-grpc"
SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Call:
    """What all requests of a measurement have in common, rendered. `secrets` never appear in an error.

    The `protocol` says how answers are read: as JSON where it is empty. Over gRPC the path is a method. `answer` is
    the JMESPath expression of the answer's value; empty: status 200 is an answer. Requests go through urllib3 where
    the `route` to the server needs it, with TLS or by a proxy.
    """

    url: str
    path: str = "/"
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""
    secrets: frozenset[str] = frozenset()
    route: Route | None = None
    protocol: str = ""

    def all_headers(self) -> dict[str, str]:
        """Return the headers given, and those that each request has."""
        given = {name.lower() for name in self.headers}
        usual = {"Content-Type": "application/json", "Accept": "*/*"}
        return {name: value for name, value in usual.items() if name.lower() not in given} | dict(self.headers)

    @property
    def head(self) -> bytes:
        """All of a request before its length; raises `ConfigError` for headers that are none."""
        parts, headers = urlsplit(self.url), self.all_headers()
        if "host" not in map(str.lower, headers):
            headers = {"Host": parts.netloc, **headers}
        lines = [f"{self.method} {parts.path.rstrip('/')}{self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        text = "\r\n".join(lines)
        if text.count("\n") != len(headers) or not text.isascii():
            raise ConfigError("request: the method, the path and the headers must be lines of ASCII")
        return f"{text}\r\nContent-Length: ".encode()


Body = bytes | tuple[bytes, int]
"""A request's body; with binary tensors behind it, how many bytes of it are JSON."""

_LENGTH = len(b"Content-Length: ")


def schemes_of(protocol: str) -> tuple[str, str]:
    """Return how URLs of a protocol begin, without and with TLS."""
    return ("grpc", "grpcs") if protocol == OIP_GRPC else ("http", "https")


def read_answer(answer: Answer, protocol: str) -> Any:
    """Return an answer as JSON has it; raise `UnexpectedAnswer` when it cannot be read."""
    if protocol == OIP_GRPC:
        return oip_grpc.decode(answer.body)
    if protocol == OIP:
        return oip.decode(answer.body, answer.header(oip.HEADER_LENGTH.lower().encode()))
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        raise UnexpectedAnswer(f"the answer is not JSON: {error}", UNREADABLE) from None


def value_of(answer: Answer, expression: jmespath.parser.ParsedResult, protocol: str = "") -> Any:
    """Return what an expression finds in an answer; raise `UnexpectedAnswer` when that is nothing."""
    try:
        value = expression.search(read_answer(answer, protocol))
    except jmespath.exceptions.JMESPathError as error:
        raise UnexpectedAnswer(f"answer: {error}", UNREADABLE) from None
    if value is None:
        raise UnexpectedAnswer(f"answer: {expression.expression} finds nothing in the answer", UNREADABLE)
    return value


def compile_answer(answer: str) -> jmespath.parser.ParsedResult | None:
    """Return a JMESPath expression, ready to use, or None for none; raise `ConfigError` for one that is none."""
    try:
        return jmespath.compile(answer) if answer else None
    except jmespath.exceptions.JMESPathError as error:
        raise ConfigError(
            f"answer: {' '.join(str(error).split())}; it is a JMESPath expression, as scores[1]"
        ) from None


class _ByLibrary:
    """Has urllib3 send the bodies of one call, in the form of an `HttpConnection`."""

    def __init__(self, call: Call, max_answer_bytes: int) -> None:
        self._connection = LibraryConnection(call.url, max_answer_bytes, call.route or Route())
        self._call, self._headers = call, call.all_headers()

    def exchange(self, body: Body, timeout: float, *, once: bool) -> Answer:  # noqa: ARG002 - it always is
        data, headers = body, self._headers
        if not isinstance(data, bytes):
            data, length = data
            headers = {**headers, oip.HEADER_LENGTH: str(length)}
        return self._connection.exchange(self._call.method, self._call.path, headers, data, timeout)

    def is_lost(self) -> bool:
        return False

    def close(self) -> None:
        self._connection.close()


class _ByGrpc:
    """Has gRPC send the messages of one call, in the form of an `HttpConnection`."""

    def __init__(self, call: Call, max_answer_bytes: int) -> None:
        authorities = call.route.authorities if call.route else ""
        self._connection = GrpcConnection(call.url, call.headers, max_answer_bytes, authorities)
        self._method = call.path

    def exchange(self, body: bytes, timeout: float, *, once: bool) -> Answer:  # noqa: ARG002 - it always is
        return self._connection.exchange(self._method, body, timeout)

    def is_lost(self) -> bool:
        return False

    def close(self) -> None:
        self._connection.close()


class ForeignClient(ConnectedClient):
    """A client of one server that keeps its connection, for use in one thread. A request is a body, ready to send.

    Nothing is sent twice. A reply's one output is the answer's value, or its status where no value is asked for.
    """

    def __init__(self, call: Call, timeout: float, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        """Take what requests have in common, and each request's deadline in seconds."""
        super().__init__()
        split_endpoint(call.url, schemes_of(call.protocol))
        self.timeout = timeout
        self._what = call
        self._head = call.head
        self._expression = compile_answer(call.answer)
        self._is_plain = call.protocol != OIP_GRPC and not call.route
        self._connection: HttpConnection | _ByLibrary | _ByGrpc
        if self._is_plain:
            self._connection = HttpConnection(call.url, max_answer_bytes)
        else:
            kind = _ByGrpc if call.protocol == OIP_GRPC else _ByLibrary
            self._connection = kind(call, max_answer_bytes)

    def exchange(self, body: Body) -> Answer:
        """Send a body and return the answer, whatever it says."""
        try:
            return self._connection.exchange(self._message(body), self.timeout, once=True)
        except ServingError as error:
            error.args = (hide(str(error), self._what.secrets),)
            raise

    def _message(self, body: Body) -> Any:
        if not self._is_plain:
            return body
        if type(body) is bytes:
            return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
        data, length = cast("tuple[bytes, int]", body)
        head = b"%b%b: %d\r\n" % (self._head[:-_LENGTH], oip.HEADER_LENGTH.encode(), length)
        return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(data), data)

    def _call(self, request: Request) -> Reply:
        begun = perf_counter_ns()
        body = cast("Body", request)  # of a workload of prepared bodies
        try:
            message = self._message(body)
            encoded = perf_counter_ns()
            answer = self._connection.exchange(message, self.timeout, once=True)
            arrived = perf_counter_ns()
            if answer.status >= 300:
                self.require_success(answer)
            expression = self._expression
            value = answer.status if expression is None else value_of(answer, expression, self._what.protocol)
        except ServingError as error:
            error.args = (hide(str(error), self._what.secrets),)
            raise
        stages = [Stage("encode", begun, encoded), Stage(REMOTE, encoded, arrived)]
        stages.append(Stage("decode", arrived, perf_counter_ns()))
        return Reply(cast("Mapping[str, Array]", {VALUE: value}), stages)

    @staticmethod
    def require_success(answer: Answer) -> None:
        """Raise `UnexpectedAnswer`, with how the body begins, for a status of 300 or more."""
        if answer.status < 300:
            return
        if answer.status < 400:
            place = answer.header(b"location") or "nowhere"
            raise UnexpectedAnswer(f"status {answer.status}, to {place}; write that as the path", REDIRECT)
        words = answer.body[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace")[:SHOWN_CHARACTERS]
        raise UnexpectedAnswer(f"status {answer.status}: {' '.join(words.split())}", f"status {answer.status}")

    def _hello(self) -> ServerInfo:
        """Ask nothing and do not connect: some servers have a worker wait for the request of each connection."""
        return ServerInfo("http", "", "", "", 0, "", (), (), 0, 0)

    def rest(self) -> None:
        """Keep no connection: some servers have a worker wait for the next request of each."""
        self._connection.close()

    def _close(self) -> None:
        self._connection.close()

    def _is_lost(self) -> bool:
        return self._connection.is_lost()

    def _after_fork(self) -> None:
        self._connection.close()
