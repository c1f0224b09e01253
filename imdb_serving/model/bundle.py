"""The model bundle on disk: what `train` writes and `serve` reads, and whether its files agree with each other."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from imdb_serving.config import digest_of
from imdb_serving.errors import BundleError
from imdb_serving.model import (
    CARD,
    CLIENT_CONF,
    CLIENT_DIR,
    FILES,
    OLD_PROGRAM,
    ONNX,
    PROGRAM,
    PUBLISHED_CONF,
    SERVER_CONF,
    SERVER_DIR,
    TOKENIZER,
    VOCABULARY,
    WEIGHTS,
    find_server_dir,
)
from imdb_serving.model.card import ModelCard, read_card
from imdb_serving.model.conf import ModelConf, load_conf, save_conf
from imdb_serving.model.signature import Sample
from imdb_serving.protocol.protobuf import Field, message_classes
from imdb_serving.text.reviews import Vocabulary
from imdb_serving.text.tokenizers import HuggingFaceTokenizer, Tokenizer, WordTokenizer

EMBEDDING = "embedding.weight"
LAST = "out.weight"
SPARE_BYTES = 4096
"""What each of Paddle's weights takes in its file beside the values, at most."""

Shape = tuple[int, ...]

_GRAPH: dict[str, tuple[Field, ...]] = {
    "TensorProto": (("dims", 1, "int64*"), ("name", 8, "string")),
    "GraphProto": (("initializer", 5, "TensorProto*"),),
    "ModelProto": (("graph", 7, "GraphProto"),),
}
"""Of ONNX's messages (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) what names weights and their shapes."""


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


@functools.cache
def _graph_class() -> Any:
    return message_classes("onnx", _GRAPH, syntax="proto2").ModelProto


def graph_shapes(graph: Path) -> dict[str, Shape]:
    """Return the shapes of an ONNX graph's weights, by name; raise `BundleError` when it cannot be read.

    The package onnx is not needed: a server does without it.
    """
    try:
        model = _graph_class().FromString(graph.read_bytes())
        return {one.name: tuple(one.dims) for one in model.graph.initializer}
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


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: every file exists and agrees with the card. `tokenizer` is None where the graph reads text."""

    folder: Path
    card: ModelCard
    conf: ModelConf
    tokenizer: Tokenizer | None

    @property
    def program(self) -> Path:
        """The Paddle inference program."""
        return self.folder / (OLD_PROGRAM if OLD_PROGRAM in self.card.files else PROGRAM)

    @property
    def weights(self) -> Path:
        """The Paddle inference weights."""
        return self.folder / WEIGHTS

    @property
    def graph(self) -> Path:
        """The ONNX graph, weights included."""
        return self.folder / ONNX

    @property
    def name(self) -> str:
        """What it is called: as the folder that holds its server folder, else as its net."""
        folder = self.folder.resolve()
        return folder.parent.name if folder.name == SERVER_DIR and folder.parent.name else self.card.net

    def sample(self, length: int, generator: np.random.Generator | None = None) -> Sample:
        """Return a made-up sample of `length` ids or words, cut to what the model takes; all alike or by chance."""
        length = min(length, self.card.longest or length)
        if self.tokenizer is None:
            return " ".join(["word"] * length)
        rows = self.tokenizer.rows
        return generator.integers(0, rows, length) if generator else np.zeros(length, dtype=np.int64)


_PLAIN_NAME = re.compile(r"[^/\\\x00.][^/\\\x00]*")


def open_bundle(path: Path) -> Bundle:
    """Open and check a bundle; raise `BundleError` naming the file that is missing, damaged or does not fit another."""
    folder = find_server_dir(path)
    if not folder.is_dir():
        raise BundleError(
            f"no model at {path}; make one with `imdb-serving train` or `make train`, or from yours with "
            "`imdb-serving import`"
        )
    card_path = _require(folder / CARD, "train the model again, or import it with `imdb-serving import`")
    card = read_card(card_path)
    for name in card.files if card.imported else FILES:
        if not _PLAIN_NAME.fullmatch(name):
            raise BundleError(f"{card_path} names the file {name!r}, which cannot be in its folder; {card.again}")
        file = _require(folder / name, card.again)
        if digest_of(file) != card.files.get(name):
            raise BundleError(f"{file} is damaged: its SHA-256 differs from {CARD}; {card.again}")
    conf = load_conf(_require(folder / SERVER_CONF, card.again))
    if card.imported:
        check_conf(conf, folder / SERVER_CONF, len(card.labels))
        return Bundle(folder, card, conf, _tokenizer(folder, card))
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    check_words(card_path, card.vocabulary, folder / VOCABULARY, len(vocabulary))
    check_conf(conf, folder / SERVER_CONF, card.sizes.get("classes", 0))
    check_weights(folder / ONNX, folder / PROGRAM, folder / WEIGHTS, card.vocabulary, card.sizes)
    return Bundle(folder, card, conf, WordTokenizer(vocabulary, blank_id=card.pad_id))


def _tokenizer(folder: Path, card: ModelCard) -> Tokenizer | None:
    imported = card.imported
    if not imported or imported.tokenizer == "text":
        return None
    if imported.tokenizer == "huggingface":
        return HuggingFaceTokenizer(_require(folder / TOKENIZER, card.again), card.longest)
    vocabulary = Vocabulary.load(_require(folder / VOCABULARY, card.again))
    return WordTokenizer(vocabulary, imported.unknown_id, card.longest)


def _require(path: Path, remedy: str) -> Path:
    if not path.is_file():
        raise BundleError(f"{path} is missing from the model bundle; {remedy}")
    return path


def write_bundle(root: Path, card: ModelCard, conf: ModelConf, files: Mapping[str, Path]) -> Bundle:
    """Write a bundle below `root` of `files`, the sources by their names in it, and open it.

    The files are complete in a folder beside the old one before that is moved away and they take its place.
    """
    root.mkdir(parents=True, exist_ok=True)
    fresh = root / f".{SERVER_DIR}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name, source in files.items():
        shutil.copyfile(source, fresh / name)
    save_conf(conf, fresh / SERVER_CONF)
    complete = msgspec.structs.replace(card, files={name: digest_of(fresh / name) for name in [*files, SERVER_CONF]})
    complete = msgspec.structs.replace(complete, checksum=complete.digest())
    (fresh / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(complete), indent=2) + b"\n")
    old = root / f".{SERVER_DIR}.old"
    shutil.rmtree(old, ignore_errors=True)
    if (root / SERVER_DIR).exists():
        (root / SERVER_DIR).rename(old)
    fresh.rename(root / SERVER_DIR)
    shutil.rmtree(old, ignore_errors=True)
    client = root / CLIENT_DIR
    shutil.rmtree(client, ignore_errors=True)
    client.mkdir()
    for name in {VOCABULARY, TOKENIZER} & files.keys():
        shutil.copyfile(root / SERVER_DIR / name, client / name)
    save_conf(conf, client / CLIENT_CONF)
    save_conf(conf, root / PUBLISHED_CONF)
    return open_bundle(root)
