"""The client's end of RPC, whatever carries it: from a request to a reply with its stages, or a typed error."""

from __future__ import annotations

from abc import abstractmethod
from time import perf_counter_ns

import msgspec

from imdb_serving.clocks import ClockFilter
from imdb_serving.config import DEFAULT_TIMEOUT, MAX_ANSWER_BYTES, MAX_TIMEOUT
from imdb_serving.errors import BadRequest, RemoteFailure, RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.timing import Stage, client_stages
from imdb_serving.transports.base import ConnectedClient
from imdb_serving.transports.rpc import fast_path, wire
from imdb_serving.transports.rpc.framing import SMALL_BYTES, Piece, too_large


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
        piece = fast_path.encode_request(request, request_id, timeout * 1000)
        if piece is None:
            piece = wire.encode_request(request, request_id, timeout * 1000, one_piece=True)[0]
        if len(piece) > SMALL_BYTES:
            self._ask_for_limit(len(piece))
        encoded = perf_counter_ns()
        deadline_ns = encoded + int(timeout * 1e9)
        data = self._send_and_receive(piece, encoded, deadline_ns)
        self._arrived_ns = perf_counter_ns()
        answer = fast_path.decode_answer(data, request_id)
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
        data = self._send_and_receive(wire.encode_hello(self._last_id, one_piece=True)[0], begun_ns, deadline_ns)
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
