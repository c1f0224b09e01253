"""A worker's part of RPC: from a request's frames to its answer's, with a handler of its own. It does no I/O."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter_ns

from imdb_serving.errors import ServingError
from imdb_serving.messages import Handler
from imdb_serving.timing import Timeline
from imdb_serving.transports.rpc import wire
from imdb_serving.workers.channel import Frames
from imdb_serving.workers.seats import Answer

log = logging.getLogger(__name__)


def make_answer(make_handler: Callable[[], Handler]) -> Answer:
    """Make a handler, and return what answers frames with it; whatever goes wrong becomes a failure for its client."""
    handler = make_handler()

    def answer(received_ns: int, frames: Frames) -> Frames:
        request_id = None
        try:
            begun_ns = perf_counter_ns()
            header = wire.read_header(frames)
            request_id = header.id
            if not isinstance(header, wire.Predict):
                raise TypeError("only predictions are passed to workers")
            timeline = Timeline()
            timeline.add("queue", received_ns, begun_ns)
            reply = handler(wire.decode_request(header, frames), timeline)
            # Reading the frames belongs to the first op: nothing of a request lies between two stages.
            if len(reply.stages) > 1:
                reply.stages[1] = reply.stages[1]._replace(start_ns=begun_ns)
            return wire.encode_reply(reply, request_id)
        except ServingError as error:
            return wire.encode_failure(error, request_id)
        except Exception as error:
            log.exception("request %s failed", request_id)
            return wire.encode_failure(error, request_id)

    return answer
