"""From samples (`{"words": ..., "label": ...}`) to a `Request` of one tensor per feed name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imdb_serving.errors import BadRequest
from imdb_serving.messages import MAX_FEEDS, Request, Tensor

INT64 = np.dtype(np.int64)

Feed = Mapping[str, Any]
"""One sample: `words`, a list of word ids or a text, and maybe `label`, 0 or 1."""


def make_request(feeds: Sequence[Feed], fetch: Sequence[str]) -> Request:
    """Gather the samples' values into one tensor a feed name; raise `BadRequest` for values that cannot be sent."""
    if type(feeds) is tuple and len(feeds) == 1 and (plain := _plain_request(feeds[0], fetch)) is not None:
        return plain
    if not feeds:
        raise BadRequest("a request needs at least one sample")
    if isinstance(fetch, str):
        raise BadRequest(f"fetch must be a list of names, got the string {fetch!r}; write [{fetch!r}]")
    if not fetch:
        raise BadRequest("a request needs at least one fetch name")
    if isinstance(feeds, Mapping) or not all(isinstance(feed, Mapping) for feed in feeds):
        raise BadRequest("a sample is one feed, {'words': ...}; `predict` takes one, `predict_batch` a list of them")
    if max(len(fetch), *map(len, feeds)) > MAX_FEEDS:
        raise BadRequest(f"a request may have at most {MAX_FEEDS} feeds, and fetch as many names")
    if len(feeds) == 1:
        tensors = {}
        for name, value in feeds[0].items():
            tensors[name] = Tensor(value, value.shape) if _is_plain(name, value) else _gather(name, [value])
        return Request(tensors, tuple(fetch), 1)
    names = feeds[0].keys()
    if any(feed.keys() != names for feed in feeds):
        raise BadRequest("all samples of a batch must have the same feed names")
    tensors = {name: _gather(name, [feed[name] for feed in feeds]) for name in names}
    return Request(tensors, tuple(fetch), len(feeds))


def _plain_request(feed: Feed, fetch: Sequence[str]) -> Request | None:
    """Return the request of one feed of word ids, which most are; None for any other."""
    if type(feed) is dict and len(feed) == 1 and type(fetch) is tuple and 0 < len(fetch) <= MAX_FEEDS:
        ((name, value),) = feed.items()
        if _is_plain(name, value):
            return Request({name: Tensor(value, value.shape)}, fetch, 1)
    return None


def _is_plain(name: str, value: Any) -> bool:
    """Tell whether a value is word ids as most clients send them, which are taken as they are."""
    return type(value) is np.ndarray and value.dtype is INT64 and value.ndim == 1 and name != "label"


def _gather(name: str, values: Sequence[Any]) -> Tensor:
    if name != "label" and any(isinstance(value, str) for value in values):
        if not all(isinstance(value, str) for value in values):
            raise BadRequest(f"feed {name!r}: a batch holds either texts or word ids, not both")
        texts = [np.frombuffer(_utf8(name, value), dtype=np.uint8) for value in values]
        return Tensor(_join(texts), tuple(map(len, texts)), text=True)
    arrays = [_integers(name, value) for value in values]
    if name == "label":
        if any(len(array) != 1 for array in arrays):
            raise BadRequest("feed 'label' must be one whole number a sample")
        return Tensor(_join(arrays))
    return Tensor(_join(arrays), tuple(map(len, arrays)))


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRequest(f"feed {name!r} cannot be sent as UTF-8: {error}") from error


def _join(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _integers(name: str, value: Any) -> NDArray[np.int64]:
    kinds = set(map(type, value if isinstance(value, list | tuple) else (value,)))
    try:
        array = np.asarray(value)
        integers = array.astype(np.int64, casting="same_kind", copy=False) if array.size else np.empty(0, np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRequest(f"feed {name!r} must be whole numbers or a text: {error}") from error
    if integers.ndim > 1 or array.dtype == np.bool_ or kinds & {bool, np.bool_}:  # numpy takes these for whole numbers
        raise BadRequest(
            f"feed {name!r} must be whole numbers or a text, without true, false or inner lists; "
            "`predict_batch` takes several reviews"
        )
    return integers.reshape(-1)
