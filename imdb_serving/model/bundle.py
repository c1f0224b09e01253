"""The model bundle on disk: what `train` writes and `serve` reads, and whether its files agree with each other."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from imdb_serving.errors import BundleError
from imdb_serving.model import (
    CARD,
    CLIENT_CONF,
    CLIENT_DIR,
    EXPORTED,
    FILES,
    ONNX,
    PROGRAM,
    PUBLISHED_CONF,
    SERVER_CONF,
    SERVER_DIR,
    VOCABULARY,
    WEIGHTS,
)
from imdb_serving.model.conf import ModelConf, load_conf, save_conf
from imdb_serving.text.reviews import Vocabulary

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
    """Yield the shapes of the weights in a Paddle program (JSON form); nothing for another form."""
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


SCHEMA = 2


class _Schema(msgspec.Struct):
    """The fields that cards of every version have."""

    schema: int


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is, how it was made, and what its files should be."""

    schema: int = SCHEMA
    net: str
    vocabulary: int
    sizes: dict[str, int]
    accuracy: float
    validation_accuracy: float
    epochs: int
    seed: int
    data_source: str
    data_sha256: str
    train_reviews: int
    held_out_reviews: int
    versions: dict[str, str]
    files: dict[str, str] = {}
    checksum: str = ""

    @property
    def pad_id(self) -> int:
        """The padding word's id: behind all words and the unknown one; its vector is zero."""
        return self.vocabulary + 1

    def digest(self) -> str:
        """Return the SHA-256 of the card itself, all but this checksum."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, checksum=""))).hexdigest()


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: every file exists and agrees with the card."""

    folder: Path
    card: ModelCard
    conf: ModelConf
    vocabulary: Vocabulary

    @property
    def program(self) -> Path:
        """The Paddle inference program."""
        return self.folder / PROGRAM

    @property
    def weights(self) -> Path:
        """The Paddle inference weights."""
        return self.folder / WEIGHTS

    @property
    def graph(self) -> Path:
        """The ONNX graph, weights included."""
        return self.folder / ONNX


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def find_server_dir(path: Path) -> Path:
    """Return the server folder for `path`, which may be that folder or the one that holds it."""
    inside = path / SERVER_DIR
    return inside if inside.is_dir() else path


def open_bundle(path: Path) -> Bundle:
    """Open and check a bundle; raise `BundleError` naming the file that is missing, damaged or does not fit another."""
    folder = find_server_dir(path)
    if not folder.is_dir():
        raise BundleError(f"no model at {path}; make one with `imdb-serving train` or `make train`")
    card_path = _require(folder / CARD)
    card = _read_card(card_path)
    for name in FILES:
        file = _require(folder / name)
        if _digest(file) != card.files.get(name):
            raise BundleError(f"{file} is damaged: its SHA-256 differs from {CARD}; train the model again")
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    conf = load_conf(folder / SERVER_CONF)
    check_words(card_path, card.vocabulary, folder / VOCABULARY, len(vocabulary))
    check_conf(conf, folder / SERVER_CONF, card.sizes.get("classes", 0))
    check_weights(folder / ONNX, folder / PROGRAM, folder / WEIGHTS, card.vocabulary, card.sizes)
    return Bundle(folder, card, conf, vocabulary)


def _read_card(path: Path) -> ModelCard:
    try:
        content = path.read_bytes()
        schema = msgspec.json.decode(content, type=_Schema).schema
        if schema != SCHEMA:
            raise BundleError(
                f"{path} has schema {schema}, this version reads {SCHEMA}; train the model again: "
                f"imdb-serving train --out {path.parent.parent}"
            )
        card = msgspec.json.decode(content, type=ModelCard)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is damaged: {error}; train the model again") from error
    if card.checksum != card.digest():
        raise BundleError(f"{path} is damaged: its checksum is wrong; train the model again")
    return card


def _require(path: Path) -> Path:
    if not path.is_file():
        raise BundleError(f"{path} is missing from the model bundle; train the model again")
    return path


def write_bundle(root: Path, card: ModelCard, conf: ModelConf, vocabulary: Vocabulary, program: Path) -> Bundle:
    """Write a bundle below `root` from an exported `program` (its path without suffix), and open it.

    The files are complete in a folder beside the old one before that is moved away and they take its place.
    """
    root.mkdir(parents=True, exist_ok=True)
    fresh = root / f".{SERVER_DIR}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name in EXPORTED:
        shutil.copyfile(program.with_suffix(Path(name).suffix), fresh / name)
    vocabulary.save(fresh / VOCABULARY)
    save_conf(conf, fresh / SERVER_CONF)
    complete = msgspec.structs.replace(card, files={name: _digest(fresh / name) for name in FILES})
    complete = msgspec.structs.replace(complete, checksum=complete.digest())
    (fresh / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(complete), indent=2) + b"\n")
    old = root / f".{SERVER_DIR}.old"
    shutil.rmtree(old, ignore_errors=True)
    if (root / SERVER_DIR).exists():
        (root / SERVER_DIR).rename(old)
    fresh.rename(root / SERVER_DIR)
    shutil.rmtree(old, ignore_errors=True)
    client = root / CLIENT_DIR
    client.mkdir(exist_ok=True)
    vocabulary.save(client / VOCABULARY)
    save_conf(conf, client / CLIENT_CONF)
    save_conf(conf, root / PUBLISHED_CONF)
    return open_bundle(root)
