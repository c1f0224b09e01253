"""RPC's requests at the server: decoding what arrived, and a worker's carrier from request to answer. No I/O.

A worker that is a thread gets the header that the server has read already; one in another process reads it itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic, perf_counter_ns
from typing import Any

import msgspec

from imdb_serving.errors import Overloaded, ServingError, code_number
from imdb_serving.messages import Handler, Reply, ServerInfo
from imdb_serving.protocol import wire
from imdb_serving.protocol.framing import (
    PREFIX_BYTES,
    Frame,
    Piece,
    fingerprint_of,
    is_piece,
    missing,
    too_large,
    unpack_whole,
)
from imdb_serving.protocol.headers import Predict
from imdb_serving.protocol.wire import UNREADABLE, decode_question
from imdb_serving.server.request_queue import NO_HOPE, Task
from imdb_serving.server.workers.carrier import Outcome, Question
from imdb_serving.server.workers.pace import step_timer
from imdb_serving.timing import Stage, Timeline

log = logging.getLogger(__name__)


class Parsed(msgspec.Struct, frozen=True, gc=False):
    """A request whose header has been read, and its tensors."""

    header: Predict
    tensors: memoryview


class RpcCarrier:
    """What a worker does with RPC's messages; see `carrier.Carrier`."""

    always_stamped = False  # a stamp costs a tenth of a brief one

    def __init__(self, make_handler: Callable[[], Handler] | None, max_message_bytes: int) -> None:
        """Take what makes the handler, if it shall answer, and the limit on messages."""
        self._limit = max_message_bytes
        if make_handler is not None:
            self._handler = make_handler()
            self.stage_names = tuple(getattr(self._handler, "stage_names", ()))

    def read(self, data: Frame) -> Question | None:
        """Return the prediction that `data` is from its first byte to its last; None for everything else."""
        piece = unpack_whole(data, self._limit)
        if piece is None:
            return None
        try:
            header = decode_question(piece[0])
        except UNREADABLE:
            return None
        if type(header) is not Predict:
            return None
        return Question(Parsed(header, piece[1]), piece[2], int(header.deadline_ms * 1e6), header.id)

    def open(self, message: Frame | Question) -> Question | None:
        """Return the prediction in a message that the supervisor has read; None for what it should not have passed."""
        return message if type(message) is Question else self.read(message)  # type: ignore[arg-type]

    @staticmethod
    def pack(message: Frame) -> Frame:
        """Return a message that the supervisor has read as bytes for another process."""
        return message

    def missing(self, data: Frame) -> int:
        """Return how many bytes are missing of the message that begins with `data`; 0 if that cannot be told."""
        if len(data) < PREFIX_BYTES or not is_piece(data):
            return 0
        more = missing(data)
        return more if len(data) + more <= self._limit else 0

    def answer(self, received_ns: int, parsed: Parsed) -> Outcome:
        """Return the answer's code, bytes and stages; whatever goes wrong becomes a failure."""
        begun_ns = perf_counter_ns()
        header = parsed.header
        deadline_ns = received_ns + int(header.deadline_ms * 1e6)
        timeline = Timeline([Stage("queue", received_ns, begun_ns)], deadline_ns)
        try:
            reply: Reply = self._handler(wire.decode_request(header, parsed.tensors), timeline)
            stages = reply.record if type(reply.record) is list else reply.stages  # the property costs a call
            if step_timer.wanted:
                step_timer.record(stages[1:])
            if len(stages) > 1 and stages[1].start_ns != begun_ns:  # nothing of a request lies between two stages
                stages[1] = Stage(stages[1].name, begun_ns, stages[1].end_ns)
            return 0, wire.encode_reply(reply, header.id), stages
        except ServingError as error:
            return _failure(error, header.id)
        except BaseException as error:  # SystemExit as well: a request must not end a worker
            log.exception("request %s failed", header.id)
            return _failure(error, header.id)

    def shed(self, parsed: Parsed) -> Outcome:
        """Return the same for a request whose time is too short."""
        return _failure(Overloaded(NO_HOPE), parsed.header.id)

    def fingerprint(self, message: Frame | Question) -> bytes:
        """Return bytes that are equal for two requests that ask the same, whatever their ids and deadlines."""
        if type(message) is Question:
            return fingerprint_of([*wire.asked(message.content.header), message.content.tensors])
        return wire.fingerprint(message)  # type: ignore[arg-type]


def _failure(error: BaseException, request_id: int) -> Outcome:
    return code_number(error), wire.encode_failure(error, request_id), ()


class RequestDecoder:
    """Turns messages into tasks. What a thread works on is read once: its task holds the `Question`."""

    def __init__(self, server_info: Callable[[], ServerInfo], max_message_bytes: int, *, for_threads: bool) -> None:
        """Take what returns what the server says of itself, or raises, its limit, and where the workers are."""
        self._introduce = server_info
        self.max_message_bytes = max_message_bytes
        self.counts: Counter[str] = Counter()  # changes under the listener's lock
        self._for_threads = for_threads

    def take(self, piece: Piece, whole: Frame, route: Any, submit: Callable[[Task], None]) -> bytes | None:
        """Submit a request and return None, or return the answer that a message gets at once.

        `whole` is the message as it came, of which `piece` is header and body; `route` is the listener's.
        """
        received_ns = perf_counter_ns()
        header, tensors, size = piece
        try:
            if size > self.max_message_bytes:
                raise too_large(size, self.max_message_bytes)
            try:
                question = decode_question(header)
            except UNREADABLE as error:
                raise wire.malformed(error) from error
            if type(question) is not Predict:
                return wire.encode_info(self._introduce(), question.id)
            content: Any = whole
            if self._for_threads:
                content = Question(Parsed(question, tensors), 0, int(question.deadline_ms * 1e6), question.id)
            submit(Task(route, question.id, received_ns, monotonic() + question.deadline_ms / 1000, content, size))
        except ServingError as error:
            self.counts[error.code] += 1
            return wire.encode_failure(error, wire.read_id(header))
        return None
