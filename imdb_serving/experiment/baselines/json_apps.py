"""The smallest servers of JSON that predict, for web servers of others: a bare ASGI application, and a Flask one.

Each process loads one of our engines, and calls it with the word ids of one review, nothing around it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from imdb_serving.engines.engine import warm_up
from imdb_serving.engines.registry import EngineSpec, make_engine
from imdb_serving.engines.tuning import resolve
from imdb_serving.experiment.baselines import ENGINE, MODEL
from imdb_serving.model.bundle import open_bundle

if TYPE_CHECKING:
    from flask import Flask


def _load() -> Callable[[list[int]], list[float]]:
    """Return a function from the word ids of one review to its probabilities, as servers of JSON need it."""
    bundle = open_bundle(Path(os.environ[MODEL])) if os.environ.get(MODEL) else None
    engine = make_engine(resolve(EngineSpec(os.environ[ENGINE]), bundle), bundle)
    warm_up(engine)

    def predict(words: list[int]) -> list[float]:
        probabilities: list[float] = engine.run([np.array(words or [0], dtype=np.int64)])[0].tolist()
        return probabilities

    return predict


predict = _load()


HEADERS = [(b"content-type", b"application/json")]


async def asgi(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answer a POST of `{"words": [...]}`."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        part = await receive()
        body += part.get("body", b"")
        more = part.get("more_body", False)
    answer = msgspec.json.encode({"prediction": predict(msgspec.json.decode(body)["words"])})
    headers = [*HEADERS, (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def flask_app() -> Flask:
    """Return an application that answers a POST of `{"words": [...]}`."""
    from flask import Flask, Response, request  # noqa: PLC0415 - the ASGI application does without

    app = Flask(__name__)

    @app.post("/")
    def answer() -> Response:
        words = msgspec.json.decode(request.get_data())["words"]
        return Response(msgspec.json.encode({"prediction": predict(words)}), mimetype="application/json")

    return app
