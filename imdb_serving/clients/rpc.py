"""The client's end of RPC, whatever carries it: from a request to a reply with its stages, or a typed error.

Nearly all requests are one review as word ids with one output. For these there is a fast path: only the id, the length
and the words change from one to the next, so what lies between is encoded once and kept. Anything else goes through
`wire`.
"""

from __future__ import annotations

import functools
import struct
from abc import abstractmethod
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np

from imdb_serving.clients.base import ConnectedClient
from imdb_serving.config import DEFAULT_TIMEOUT, MAX_ANSWER_BYTES, MAX_TIMEOUT
from imdb_serving.errors import BadRequest, RemoteFailure, RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.protocol import wire
from imdb_serving.protocol.framing import (
    MAX_HEADER_BYTES,
    PREFIX,
    PREFIX_BYTES,
    SMALL_BYTES,
    VERSION,
    Frame,
    Piece,
    pack,
    too_large,
)
from imdb_serving.protocol.headers import DTYPES, INT64, Predict, ReceivedAnswer, TensorHeader
from imdb_serving.protocol.wire import UNREADABLE, Answered, decode_answer_header
from imdb_serving.timing import ClockFilter, Stage, client_stages

# Encoded these are cf 7f.. and ce ff..; no text can hold them, for they are no UTF-8.
ANY_ID, ANY_LENGTH = (1 << 63) - 1, (1 << 32) - 1
ID, LENGTH, BODY_BYTES = struct.Struct(">Q"), struct.Struct(">I"), struct.Struct("<I")

_unpack_prefix, _pack_body_bytes = PREFIX.unpack_from, BODY_BYTES.pack


@functools.lru_cache(maxsize=64)
def _prepare(name: str, fetch: tuple[str, ...], deadline_ms: float) -> tuple[Any, ...] | None:
    """Return the parts of a request's header between its numbers, and what joins them; None where that is not clear.

    Numbers are as long as MessagePack has them, whatever their value.
    """
    words = TensorHeader(name, "int64", (ANY_LENGTH,), (ANY_LENGTH,))
    message = pack(msgspec.msgpack.encode(Predict(ANY_ID, deadline_ms, 1, fetch, [words])), ())
    begun, *rest = message.split(ID.pack(ANY_ID))
    behind = rest[0].split(LENGTH.pack(ANY_LENGTH)) if len(rest) == 1 else []
    if len(behind) != 3:
        return None
    parts = [begun[: PREFIX_BYTES - BODY_BYTES.size], begun[PREFIX_BYTES:], *behind]
    places = [f"{len(part)}s" for part in parts]
    whole = struct.Struct(f">{places[0]}{BODY_BYTES.size}s{places[1]}Q{places[2]}I{places[3]}I{places[4]}")
    return whole.pack, *parts


def encode_request(request: Request, request_id: int, deadline_ms: float) -> bytes | None:
    """Return a request in one piece: the same as of `wire.encode_request`, but for the length of its numbers."""
    feed = request.feed
    if len(feed) == request.samples == 1:
        ((name, tensor),) = feed.items()
        values = tensor.values
        if values.dtype is INT64 and tensor.lengths == values.shape:
            try:
                prepared = _prepare(name, request.fetch, deadline_ms)
            except TypeError:  # names that are none; the server says so
                return None
            if prepared is not None:
                join, prefix, begun, before, between, behind = prepared
                count = len(values)
                body_bytes = _pack_body_bytes(count * 8)
                header = join(prefix, body_bytes, begun, request_id, before, count, between, count, behind)
                return header + values.tobytes()  # type: ignore[no-any-return]
    return None


def decode_answer(data: Frame | None, request_id: int) -> Answered | None:
    """Return the answer to a request, when that is what `data` is from its first byte to its last."""
    if data is None or len(data) < PREFIX_BYTES:
        return None
    version, header_bytes, body_bytes = _unpack_prefix(data)
    begin = PREFIX_BYTES + (header_bytes + 7 & ~7)
    if begin + body_bytes != len(data) or version != VERSION or header_bytes > MAX_HEADER_BYTES:
        return None
    try:
        answer = decode_answer_header(memoryview(data)[PREFIX_BYTES : PREFIX_BYTES + header_bytes])
        if type(answer) is ReceivedAnswer and answer.id == request_id and len(answer.fetch) == 1:
            output = answer.fetch[0]
            values: Any = np.ndarray(output.shape, DTYPES[output.dtype], data, begin)
            if values.nbytes + 7 & ~7 == body_bytes:
                return Answered({output.name: values}, answer.stages, answer.clock)
    except (*UNREADABLE, KeyError, TypeError):
        pass
    return None


class _Record(msgspec.Struct, frozen=True, gc=False):
    """A request's stamps as the client took them, and the answer with the server's."""

    start_ns: int
    encoded_ns: int
    arrived_ns: int
    decoded_ns: int
    answer: wire.Answered
    clocks: ClockFilter

    def stages(self) -> list[Stage]:
        """Return the stages of `client_infer`."""
        sent, received = (self.start_ns, self.encoded_ns), (self.arrived_ns, self.decoded_ns)
        return client_stages(sent, self.answer.stages(), received, self.answer.clock, self.clocks)

    def clock_bound_ns(self) -> int:
        """Return how far `send` and `reply` can be from the truth."""
        return self.clocks.bound_ns(self.arrived_ns)


class MessageClient(ConnectedClient):
    """A client of one RPC server, for use in one thread. `timeout` is each request's deadline in seconds.

    After an error the same object can be used again. A carrier sends and receives messages, and no more.
    """

    def __init__(
        self, endpoint: str, timeout: float = DEFAULT_TIMEOUT, max_answer_bytes: int = MAX_ANSWER_BYTES
    ) -> None:
        """Take the endpoint; raise `BadRequest` for a timeout that is none."""
        super().__init__()
        if not 0 < timeout <= MAX_TIMEOUT:
            raise BadRequest(f"timeout must be above 0 and at most {MAX_TIMEOUT:.0f} seconds, got {timeout}")
        self.endpoint = endpoint
        self.timeout = timeout
        self.max_answer_bytes = max_answer_bytes
        self._last_id = 0
        self._arrived_ns = 0
        self._clocks = ClockFilter()

    @abstractmethod
    def _send_and_receive(self, piece: bytes, begun_ns: int, deadline_ns: int) -> bytes | None:
        """Send a message in one piece and return the bytes that arrive next, if there are any; errors as of `_receive`.

        They are for `_complete`, unless they are the answer.
        """

    @abstractmethod
    def _complete(self, begun: bytes | None, deadline_ns: int) -> wire.Opened | Piece:
        """Return the message that the bytes of `_send_and_receive` begin; errors as of `_receive`."""

    @abstractmethod
    def _receive(self, deadline_ns: int) -> wire.Opened | Piece:
        """Return the next message, opened.

        Raises `RequestTimeout` at the deadline (of `perf_counter_ns`), `ServerUnavailable` when there is no server.
        """

    def _call(self, request: Request) -> Reply:
        """Send `request` and return the reply with the stages of `client_infer`."""
        start = perf_counter_ns()
        timeout = self.timeout
        self._last_id = request_id = self._last_id + 1
        piece = encode_request(request, request_id, timeout * 1000)
        if piece is None:
            piece = wire.encode_request(request, request_id, timeout * 1000)
        if len(piece) > SMALL_BYTES:
            self._ask_for_limit(len(piece))
        encoded = perf_counter_ns()
        deadline_ns = encoded + int(timeout * 1e9)
        data = self._send_and_receive(piece, encoded, deadline_ns)
        self._arrived_ns = perf_counter_ns()
        answer = decode_answer(data, request_id)
        if answer is None:
            other = self._answer_in(data, deadline_ns)
            if type(other) is not wire.Answered:
                raise RemoteFailure(f"{self.endpoint} answered a prediction with something else")
            answer = other
        return Reply(answer.outputs, _Record(start, encoded, self._arrived_ns, perf_counter_ns(), answer, self._clocks))

    def _ask_for_limit(self, size: int) -> None:
        """Raise `BadRequest` for a message that the server would not read, after which it might end the connection."""
        this, limit = self._last_id, self._hello().max_message_bytes
        self._last_id = this
        if size > limit:
            raise too_large(size, limit)

    def _hello(self) -> ServerInfo:
        self._last_id += 1
        begun_ns = perf_counter_ns()
        deadline_ns = begun_ns + int(self.timeout * 1e9)
        data = self._send_and_receive(wire.encode_hello(self._last_id), begun_ns, deadline_ns)
        info = self._answer_in(data, deadline_ns)
        if not isinstance(info, ServerInfo):
            raise RemoteFailure(f"{self.endpoint} answered hello with something else")
        return info

    def _answer_in(self, data: bytes | None, deadline_ns: int) -> wire.Answered | ServerInfo:
        """Return the answer to the last request, which these bytes begin or which comes after; raise its error.

        Late answers, to requests given up before, are skipped. `_arrived_ns` is when the answer had arrived.
        """
        message = self._complete(data, deadline_ns)
        while True:
            self._arrived_ns = perf_counter_ns()
            number, answer = wire.decode_answer(message[0], message[1])
            if number == self._last_id or number is None:
                if number is None:
                    self._not_read()
                if isinstance(answer, ServingError):
                    raise answer
                return answer
            message = self._receive(deadline_ns)

    def _not_read(self) -> None:
        """Do what must follow when the server could not read what was sent, or this client the answer."""

    def _late(self) -> RequestTimeout:
        return RequestTimeout(f"no reply from {self.endpoint} in {self.timeout} s; raise the timeout or lower the load")

    def _no_server(self, why: object) -> ServerUnavailable:
        return ServerUnavailable(
            f'no server answers at {self.endpoint}: {why}; start one with "imdb-serving serve ..." or raise the timeout'
        )
