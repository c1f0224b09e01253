"""One request to a server of someone else, and what came of it: to mend a parameter file before a sweep."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import orjson

from imdb_serving.cell import CLOSED, GRID
from imdb_serving.errors import ServingError
from imdb_serving.foreign.client import OIP_GRPC, ForeignClient
from imdb_serving.foreign.templates import hide
from imdb_serving.measurement.first_answers import distance
from imdb_serving.measurement.foreign import Reached, check_answer, reach, words_of_answer
from imdb_serving.measurement.parameters import GridParams

SHOWN = 300
EXAMPLES = 5


def probe(params: GridParams) -> Iterator[str]:
    """Yield lines that tell what was sent, what came back, and what the expression made of it.

    Raises a `ServingError` at what a sweep would fail at, with what to mend.
    """
    one = msgspec.structs.replace(
        params, samples=2 * params.batch, client_threads=[1], arrivals=CLOSED, rates=[], series=GRID
    )
    with tempfile.TemporaryDirectory(prefix="imdb-serving-probe-") as folder, ExitStack() as stack:
        found = reach(one, Path(folder), stack)
        yield from (hide(line, found.call.secrets) for line in _told(params, found))


def _told(params: GridParams, found: Reached) -> Iterator[str]:
    _, call, body, answer = found
    yield f"server: {params.server_label}, {call.url}"
    words = words_of_answer(answer, call.protocol)
    if call.protocol == OIP_GRPC:
        yield f"request: {call.path.lstrip('/')} of {params.server_model}, {len(body):,} bytes"
        yield f"answer: {len(answer.body):,} bytes: {_shown(words)}"
    else:
        yield f"request: {call.method} {call.path}, {_sized(body if isinstance(body, bytes) else body[0])}"
        kind = answer.header(b"content-type") or "of no type"
        yield f"answer: status {answer.status}, {kind}, {_sized(answer.body)}"
    if answer.header(b"connection").lower() == "close":
        yield "connection: the server closes it after each answer, so each request pays for one"
    try:
        values = check_answer(answer, call, params.batch)
    except ServingError as error:
        expressions = list(itertools.islice(numbers_in(words), EXAMPLES)) if answer.status < 300 else []
        hint = f"; numbers in it: {', '.join(expressions)}" if expressions else ""
        error.args = (hide(f"{error}{hint}", call.secrets),)
        raise
    value = values[0] if call.answer and params.batch == 1 else values
    yield f"{call.answer}: {value!r}" if call.answer else "no `answer` is asked for: status 200 is an answer"
    yield from _again(params, found, values)


def _again(params: GridParams, found: Reached, values: Any) -> Iterator[str]:
    """Send the same once more, over one connection with a request before it, and say whether the answer is the same."""
    with ForeignClient(found.call, params.timeout) as client:
        client.exchange(found.body)
        begun = perf_counter()
        answer = client.exchange(found.body)
        took = perf_counter() - begun
    yield f"once more: {took * 1000:.2g} ms"
    if found.call.answer and distance(values, check_answer(answer, found.call, params.batch)) > 0:
        yield "mind: it answers the same input differently, which a sweep tells of cells that do so by more than 0.0001"
    yield "this can be measured"


def numbers_in(body: str | bytes) -> Iterator[str]:
    """Yield the expressions of numbers in a JSON body."""
    try:
        yield from _paths(orjson.loads(body), "")
    except orjson.JSONDecodeError:
        return


def _paths(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, one in value.items():
            quoted = name if name.isidentifier() else orjson.dumps(name).decode()
            yield from _paths(one, f"{path}.{quoted}" if path else quoted)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _paths(one, f"{path}[{number}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path or "@"


def _sized(body: bytes) -> str:
    return f"{len(body):,} bytes: {_shown(body[: 4 * SHOWN].decode('utf-8', 'replace'))}"


def _shown(text: str) -> str:
    words = " ".join(text[: 4 * SHOWN].split())
    words = "".join(one if one.isprintable() else "." for one in words)  # a terminal's commands are not passed on
    return f"{words[:SHOWN]}{'...' if len(words) > SHOWN else ''}"
