"""A bare ASGI application without a framework: what an asynchronous web server gives at best."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from imdb_serving.experiment.baselines import engine

predict = engine.load()
HEADERS = [(b"content-type", b"application/json")]


async def app(
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
