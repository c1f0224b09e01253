"""RPC's requests at the server: decoding what arrived, and a worker's handler from request to answer. No I/O.

A thread worker gets the header that the server has read already; a process worker reads it itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic, perf_counter_ns
from typing import Any

import msgspec

from imdb_serving.config import WorkerKind
from imdb_serving.errors import Overloaded, ServingError
from imdb_serving.messages import Handler, ServerInfo
from imdb_serving.protocol import wire
from imdb_serving.protocol.framing import PREFIX_BYTES, Frame, is_piece, missing, too_large, unpack_whole
from imdb_serving.protocol.headers import Predict, Tensors
from imdb_serving.protocol.outcome import FailedFrames, number_of
from imdb_serving.protocol.wire import UNREADABLE, decode_question
from imdb_serving.server.channel import Frames
from imdb_serving.server.request_queue import NO_HOPE, Task
from imdb_serving.server.stream_worker import Question
from imdb_serving.server.worker import Answer, step_timer
from imdb_serving.timing import Stage, Timeline

log = logging.getLogger(__name__)


class Parsed(msgspec.Struct, frozen=True, gc=False):
    """A request whose header has been read, and whether it came in one piece."""

    header: Predict
    tensors: Tensors
    one_piece: bool


def answer_maker(kind: WorkerKind) -> Callable[[Callable[[], Handler]], Answer]:
    """Return what makes a worker's `answer` from what makes its handler."""
    return make_parsed_answer if kind == "thread" else make_answer


def make_answer(make_handler: Callable[[], Handler]) -> Answer:
    """Make a handler, and return what answers messages with it; whatever goes wrong becomes a failure."""
    answer_parsed = make_parsed_answer(make_handler)

    def answer(received_ns: int, message: Frames) -> Frames:
        one_piece = wire.is_one_piece(message)
        try:
            opened = wire.open_frames(message)
            header = wire.read_question(opened.header)
            if not isinstance(header, Predict):
                raise TypeError("only predictions are passed to workers")
        except Exception as error:
            log.exception("a message from the server cannot be read")
            return wire.encode_failure(error, None, one_piece=one_piece)
        return answer_parsed(received_ns, Parsed(header, opened.tensors, one_piece))  # type: ignore[no-any-return]

    return telling(answer, answer_parsed)


def make_parsed_answer(make_handler: Callable[[], Handler]) -> Answer:
    """Make a handler, and return what answers requests with it whose header has been read."""
    handler = make_handler()

    def answer(received_ns: int, parsed: Parsed) -> Frames:
        begun_ns = perf_counter_ns()
        header, one_piece = parsed.header, parsed.one_piece
        deadline_ns = received_ns + int(header.deadline_ms * 1e6)
        timeline = Timeline([Stage("queue", received_ns, begun_ns)], deadline_ns)
        try:
            reply = handler(wire.decode_request(header, parsed.tensors), timeline)
            stages = reply.record if type(reply.record) is list else reply.stages  # the property costs a call
            if step_timer.wanted:
                step_timer.record(stages[1:])
            if len(stages) > 1 and stages[1].start_ns != begun_ns:  # nothing of a request lies between two stages
                stages[1] = Stage(stages[1].name, begun_ns, stages[1].end_ns)
            return wire.encode_reply(reply, header.id, one_piece=one_piece)
        except ServingError as error:
            return wire.encode_failure(error, header.id, one_piece=one_piece)
        except BaseException as error:  # SystemExit as well: a request must not end a worker
            log.exception("request %s failed", header.id)
            return wire.encode_failure(error, header.id, one_piece=one_piece)

    return telling(answer, handler)


class RpcCarrier:
    """What a worker does with RPC's messages in one piece; see `stream_worker.Carrier`."""

    always_stamped = False  # a stamp costs a tenth of a brief one

    def __init__(self, make_handler: Callable[[], Handler] | None, max_message_bytes: int) -> None:
        """Take what makes the handler, if it shall answer, and the limit on messages."""
        self._limit = max_message_bytes
        if make_handler is not None:
            self._answer = make_parsed_answer(make_handler)
            self.stage_names = self._answer.stage_names  # type: ignore[attr-defined]

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
        return Question(Parsed(header, piece[1], one_piece=True), piece[2], int(header.deadline_ms * 1e6), header.id)

    open = read

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

    def answer(self, received_ns: int, parsed: Parsed) -> tuple[int, bytes]:
        """Return the answer's code and bytes."""
        frames = self._answer(received_ns, parsed)
        return (number_of(frames) if type(frames) is FailedFrames else 0), frames[0]

    def shed(self, parsed: Parsed) -> tuple[int, bytes]:
        """Return the same for a request whose time is too short."""
        frames = wire.encode_failure(Overloaded(NO_HOPE), parsed.header.id, one_piece=True)
        return number_of(frames), frames[0]

    def fingerprint(self, message: Frame) -> bytes:
        """Return bytes that are equal for two requests that ask the same, whatever their ids and deadlines."""
        return wire.fingerprint([message])


def telling(answer: Answer, handler: Any) -> Answer:
    """Attach a handler's stage names to its answer function, for `hello`."""
    answer.stage_names = getattr(handler, "stage_names", ())  # type: ignore[attr-defined]
    return answer


class RequestDecoder:
    """Turns messages into tasks. A thread worker's task holds the header as well, so that it is read once."""

    def __init__(self, server_info: Callable[[], ServerInfo], max_message_bytes: int, kind: WorkerKind) -> None:
        """Take what returns what the server says of itself, or raises, its limit, and what its workers are."""
        self._introduce = server_info
        self.max_message_bytes = max_message_bytes
        self.counts: Counter[str] = Counter()  # changes under the listener's lock
        self._for_threads = kind == "thread"

    def take(self, header: Frame, tensors: Tensors, whole: Frames, route: Any, submit: Callable[[Task], None]) -> Any:
        """Submit a request and return None, or return the answer that a message gets at once.

        `whole` is the message as it came, for worker processes; `route` is the listener's.
        """
        received_ns = perf_counter_ns()
        one_piece = len(whole) == 1
        try:
            size = len(whole[0]) if one_piece else sum(map(len, whole))
            if size > self.max_message_bytes:
                raise too_large(size, self.max_message_bytes)
            try:
                question = decode_question(header)
            except UNREADABLE as error:
                raise wire.malformed(error) from error
            if type(question) is not Predict:
                return wire.encode_info(self._introduce(), question.id, one_piece=one_piece)
            content: Any = Parsed(question, tensors, one_piece) if self._for_threads else whole
            submit(Task(route, question.id, received_ns, monotonic() + question.deadline_ms / 1000, content, size))
        except ServingError as error:
            self.counts[error.code] += 1
            return wire.encode_failure(error, wire.read_id(header), one_piece=one_piece)
        return None
