"""What a server does with a received message, whatever carried it: submit a request, answer `hello`, refuse others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import monotonic, perf_counter_ns
from typing import Any

from imdb_serving.errors import ServingError
from imdb_serving.messages import ServerInfo
from imdb_serving.transports.rpc import wire
from imdb_serving.transports.rpc.answering import Parsed
from imdb_serving.transports.rpc.framing import Frame, too_large
from imdb_serving.transports.rpc.headers import Predict
from imdb_serving.transports.rpc.tensors import Tensors
from imdb_serving.transports.rpc.wire import UNREADABLE, decode_question
from imdb_serving.workers.channel import Frames
from imdb_serving.workers.front import Task
from imdb_serving.workers.seats import WorkerKind


class Intake:
    """Turns messages into tasks. A thread worker's task holds the header as well, so that it is read once."""

    def __init__(self, introduce: Callable[[], ServerInfo], max_message_bytes: int, kind: WorkerKind) -> None:
        """Take what returns what the server says of itself, or raises, its limit, and what its workers are."""
        self._introduce = introduce
        self.max_message_bytes = max_message_bytes
        self.counts: Counter[str] = Counter()  # changes under the front's lock
        self._for_threads = kind == "thread"

    def take(self, header: Frame, tensors: Tensors, whole: Frames, route: Any, submit: Callable[[Task], None]) -> Any:
        """Submit a request and return None, or return the answer that a message gets at once.

        `whole` is the message as it came, for worker processes; `route` is the front's.
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
