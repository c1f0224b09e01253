"""Decides in how many processes a server's worker threads are, where that was left open (`--processes auto`)."""

from __future__ import annotations

import functools
import logging
import select
from typing import TYPE_CHECKING

from imdb_serving.cli.serve_options import ServeOptions
from imdb_serving.config import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from imdb_serving.model.bundle import Bundle
    from imdb_serving.server.sizing import Cost

log = logging.getLogger(__name__)

WORDS = 200
"""Of a review: about what IMDB's have in the middle."""


def decided(options: ServeOptions, mode: str, bundle: Bundle | None) -> ServeOptions:
    """Return the options with a number of processes, as asked for or else as is best here; log why."""
    if options.processes is not None or options.kind == "process":
        return options
    count, why = _best(options, mode, bundle)
    fields = {"event": "processes", "processes": count, "reason": why}
    log.info("workers are threads of %d processes: %s", count, why, extra=fields)
    return options._replace(processes=count)


def _best(options: ServeOptions, mode: str, bundle: Bundle | None) -> tuple[int, str]:
    """Return the number of processes for workers that are threads, and the reason."""
    if why := _why_one(options, mode):
        return 1, why
    if (cores := usable_cores()) < 2:
        return 1, "there are fewer than two cores"
    from imdb_serving.server.sizing import Cost, best_processes

    engine = engine_cost(options, bundle)
    if engine is None:
        unknown = f"it is not known how long {options.engine.name} takes here, which imdb-serving tune measures"
        return best_processes(options.server_threads, cores, None), f"{unknown}, on {cores:g} cores"
    serving = serving_us(mode)
    cost = Cost(serving + engine.whole_us, serving + engine.locked_us)
    why = f"a request holds the interpreter for {cost.locked_us:.0f} of {cost.whole_us:.0f} us, on {cores:g} cores"
    return best_processes(options.server_threads, cores, cost), why


def _why_one(options: ServeOptions, mode: str) -> str:
    """Return why it is one process whatever the machine and a request's cost; nothing where these decide."""
    reasons = {
        "there is one worker": options.server_threads < 2,
        "it is not known whether a pipeline of one's own suits several processes": bool(options.pipeline),
        "over ZeroMQ one process takes all requests in, and passing them on costs more than answering": mode == "rpc",
        "several processes need epoll, which this system does not have": not hasattr(select, "epoll"),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def usable_cores() -> float:
    """Return how many cores this process may use, by affinity and quota."""
    from imdb_serving.measurement import machine

    return machine.usable_cores()


def engine_cost(options: ServeOptions, bundle: Bundle | None) -> Cost | None:
    """Return what the engine takes of a request, as it says itself or as it was tuned; None where that is not known."""
    from imdb_serving.engines import tuning
    from imdb_serving.server.sizing import Cost

    spec = options.engine
    if bundle is None or not spec.facts.needs_model:
        return Cost(spec.service_time_ms * 1000 if spec.facts.timed else 0.0, 0.0)
    found = tuning.known(spec, bundle)
    if found is None:
        return None
    whole_us = 1e6 / max(1.0, found.reviews_per_second[found.variant])
    locked_us = found.probes.locked_us if found.probes else None
    return Cost(whole_us, min(whole_us, locked_us or 0.0))


def serving_us(mode: str) -> float:
    """Return what a request takes of a worker without its engine, in us of processor time."""
    import numpy as np

    from imdb_serving.engines.registry import EngineSpec
    from imdb_serving.messages import Request, Tensor
    from imdb_serving.pipeline import imdb_pipeline
    from imdb_serving.server import sizing

    words = Tensor(np.zeros(WORDS, dtype=np.int64), (WORDS,))
    request = Request({"words": words}, ("prediction",), 1)
    make = functools.partial(imdb_pipeline, EngineSpec("none"), None)
    limit = MAX_MESSAGE_BYTES  # and not the server's own, which may be less than this request has
    if mode == "flask":
        from imdb_serving.protocol import json_bodies
        from imdb_serving.server.http.app import make_worker_app
        from imdb_serving.server.http.parsing import HttpRequest
        from imdb_serving.server.http.requests import HttpCarrier, encode

        body = json_bodies.encode_request(request)
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        app = functools.partial(make_worker_app, make, max_body_bytes=limit, token="")
        message = encode(HttpRequest(headers=headers, body=body, keep=True))
        return sizing.serving_us(HttpCarrier(app, limit, ("127.0.0.1", 1)), message)
    from imdb_serving.protocol import wire
    from imdb_serving.server.rpc.requests import RpcCarrier

    return sizing.serving_us(RpcCarrier(make, limit), wire.encode_request(request, 1, 60_000.0))
