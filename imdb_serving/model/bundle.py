"""The model bundle on disk: what `train` writes and `serve` reads.

    serving_server_model/   inference.json, inference.pdiparams (Paddle), inference.onnx, imdb.vocab,
                            serving_server_conf.prototxt, model_card.json
    serving_client_conf/    serving_client_conf.prototxt, imdb.vocab
    inference.conf          the client conf under its published name

The model card holds the SHA-256 of every server file and of itself, so damage is found when a bundle is opened, and
named by file.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from imdb_serving.errors import BundleError
from imdb_serving.model.conf import ModelConf, load_conf, save_conf
from imdb_serving.model.consistency import check_conf, check_weights, check_words
from imdb_serving.model.files import (
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
from imdb_serving.text.vocabulary import Vocabulary

SCHEMA = 2


class _Schema(msgspec.Struct):
    """What every version's card says of itself."""

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
    """An opened bundle: every file is there and is what the card says."""

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
