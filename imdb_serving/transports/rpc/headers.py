"""The headers of all messages, typed: what MessagePack carries is checked against these while it is decoded. No I/O."""

from __future__ import annotations

from typing import Annotated

import msgspec

from imdb_serving.messages import MAX_FEEDS, ServerInfo
from imdb_serving.timing import Stage

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
DeadlineMs = Annotated[float, msgspec.Meta(gt=0, le=86_400_000)]
RequestId = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class TensorHeader(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Describes one tensor frame; `lengths` makes it ragged."""

    name: Name
    dtype: Name
    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=8)]
    lengths: tuple[Count, ...] | None = None


class Predict(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="predict"):
    """Header of a request; `deadline_ms` counts from the moment the server receives it."""

    id: RequestId
    deadline_ms: DeadlineMs
    samples: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    fetch: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_FEEDS)]
    feed: Annotated[list[TensorHeader], msgspec.Meta(max_length=MAX_FEEDS)]


class Hello(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="hello"):
    """Header of the question who is there."""

    id: RequestId


class Answer(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="answer"):
    """Header of a reply: its tensors, and the server's stamps by its own clock."""

    id: RequestId
    fetch: list[TensorHeader]
    stages: list[Stage]
    clock: str


class ReceivedAnswer(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="answer"):
    """The same as a client reads it: the stamps are left as they came until somebody asks for them."""

    id: RequestId
    fetch: list[TensorHeader]
    stages: msgspec.Raw
    clock: str


class Failure(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="failure"):
    """Header of a refusal; `id` is None when the request's id could not be read."""

    id: RequestId | None
    code: str
    message: str


class Info(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="info"):
    """Header of the answer to `hello`."""

    id: RequestId
    server: ServerInfo


class AnyId(msgspec.Struct, gc=False):
    """The one key that is looked for in a header of which nothing else may be right."""

    id: RequestId | None = None
