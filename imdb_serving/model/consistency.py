"""Whether a bundle's files agree with its card and with each other: what is stored twice must be the same twice.

A word id beyond the rows of a table of word vectors ends the process that looks it up, so the number of words is
checked wherever it is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from imdb_serving.errors import BundleError
from imdb_serving.model.conf import ModelConf

EMBEDDING = "embedding.weight"
LAST = "out.weight"
SPARE_BYTES = 4096
"""What each of Paddle's weights takes in its file beside the values, at most."""

Shape = tuple[int, ...]


def check_words(card: Path, words: int, vocabulary: Path, lines: int) -> None:
    """Raise `BundleError` unless the card names as many words as the vocabulary has lines."""
    if words != lines:
        raise _differs(f"{card} says vocabulary = {words}, and {vocabulary} has {lines} lines")


def check_conf(conf: ModelConf, path: Path, classes: int) -> None:
    """Raise `BundleError` unless the conf names what every pipeline feeds and fetches, and as many classes."""
    if "words" not in conf.feed_names:
        raise BundleError(f"{path} has no feed variable 'words'; train the model again")
    conf.require_fetch("prediction", path)
    shape = conf.fetch[conf.fetch_names.index("prediction")].shape
    if shape != (classes,):
        raise _differs(f"{path} gives prediction the shape {list(shape)}, the card says {classes} classes")


def check_weights(graph: Path, program: Path, weights: Path, words: int, sizes: Mapping[str, int]) -> None:
    """Raise `BundleError` unless the weights have the shapes that follow from the number of words and the card's sizes.

    A table of word vectors has a row more for the unknown word and one for padding.
    """
    shapes = graph_shapes(graph)
    rows, classes = words + 2, sizes.get("classes", 0)
    if EMBEDDING not in shapes or LAST not in shapes:
        raise BundleError(f"{graph} has no weights {EMBEDDING} and {LAST}; train the model again")
    if shapes[EMBEDDING] != (rows, sizes.get("embedding", 0)):
        raise _differs(f"{graph} has word vectors {list(shapes[EMBEDDING])}, the card says {rows} of {sizes}")
    if shapes[LAST][-1:] != (classes,):
        raise _differs(f"{graph} has {list(shapes[LAST])[-1:]} classes, the card says {classes}")
    of_program = list(program_shapes(program))
    if not of_program:
        return  # a program of another form than Paddle 3 writes
    if (rows, sizes.get("embedding", 0)) not in of_program:
        raise _differs(f"{program} has no word vectors of {rows} rows, which {graph} has")
    stored, expected = weights.stat().st_size, 4 * sum(map(prod, of_program))
    if not expected <= stored <= expected + SPARE_BYTES * len(of_program):
        raise _differs(f"{weights} has {stored} bytes, the weights in {program} take {expected}")


def graph_shapes(graph: Path) -> dict[str, Shape]:
    """Return the shapes of an ONNX graph's weights, by name; raise `BundleError` when it cannot be read."""
    import onnx  # noqa: PLC0415 - takes a tenth of a second, and only bundles need it

    try:
        return {one.name: tuple(one.dims) for one in onnx.load_model(graph).graph.initializer}
    except Exception as error:  # protobuf's errors have no common base but this
        raise BundleError(f"cannot read {graph}: {error}; train the model again") from error


def program_shapes(program: Path) -> Iterator[Shape]:
    """Yield the shapes of the weights that a Paddle program names (its JSON form); none where that is not told."""
    try:
        content: Any = msgspec.json.decode(program.read_bytes())
        blocks = [block for region in content["program"]["regions"] for block in region["blocks"]]
        for operation in (operation for block in blocks for operation in block["ops"]):
            if operation["#"] == "p":
                yield tuple(int(extent) for extent in operation["O"]["TT"]["D"][1])
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError):
        return


def _differs(what: str) -> BundleError:
    return BundleError(f"the bundle's files do not fit each other: {what}; train the model again")
