"""The model bundle on disk: what `train` writes and `serve` reads.

    serving_server_model/   inference.json, inference.pdiparams, imdb.vocab, serving_server_conf.prototxt,
                            model_card.json
    serving_client_conf/    serving_client_conf.prototxt, imdb.vocab
    inference.conf          the client conf under its published name

The model card holds the SHA-256 of every server file, so damage is found when a bundle is opened and named by file.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from imdb_serving.errors import BundleError
from imdb_serving.model.conf import ModelConf, load_conf, save_conf
from imdb_serving.model.feeds import FeedLayout
from imdb_serving.text.vocabulary import Vocabulary

SERVER_DIR = "serving_server_model"
CLIENT_DIR = "serving_client_conf"
CLIENT_CONF = "serving_client_conf.prototxt"
SERVER_CONF = "serving_server_conf.prototxt"
PUBLISHED_CONF = "inference.conf"
PROGRAM = "inference.json"
WEIGHTS = "inference.pdiparams"
VOCABULARY = "imdb.vocab"
CARD = "model_card.json"


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is, how it was made, and what its files should be."""

    schema: int = 1
    net: str
    vocabulary: int
    sizes: dict[str, int]
    layout: FeedLayout
    onednn: bool
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


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def find_server_dir(path: Path) -> Path:
    """Return the server folder for `path`, which may be that folder or the one that holds it."""
    inside = path / SERVER_DIR
    return inside if inside.is_dir() else path


def open_bundle(path: Path) -> Bundle:
    """Open and check a bundle; raise `BundleError` naming the file that is missing or damaged."""
    folder = find_server_dir(path)
    if not folder.is_dir():
        raise BundleError(f"no model at {path}; make one with `imdb-serving train` or `make train`")
    card_path = _require(folder / CARD)
    try:
        card = msgspec.json.decode(card_path.read_bytes(), type=ModelCard)
    except msgspec.DecodeError as error:
        raise BundleError(f"{card_path} is damaged: {error}; train the model again") from error
    for name, expected in card.files.items():
        file = _require(folder / Path(name).name)
        if _digest(file) != expected:
            raise BundleError(f"{file} is damaged: its SHA-256 differs from {CARD}; train the model again")
    vocabulary = Vocabulary.load(_require(folder / VOCABULARY))
    return Bundle(folder, card, load_conf(_require(folder / SERVER_CONF)), vocabulary)


def _require(path: Path) -> Path:
    if not path.is_file():
        raise BundleError(f"{path} is missing from the model bundle; train the model again")
    return path


def write_bundle(root: Path, card: ModelCard, conf: ModelConf, vocabulary: Vocabulary, program: Path) -> Bundle:
    """Write a bundle below `root` from an exported `program` (its path without suffix), and open it.

    The files are complete in a folder beside the old one before they take its place: a killed training leaves the
    old bundle as it was.
    """
    root.mkdir(parents=True, exist_ok=True)
    fresh = root / f".{SERVER_DIR}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name in (PROGRAM, WEIGHTS):
        shutil.copyfile(program.with_suffix(Path(name).suffix), fresh / name)
    vocabulary.save(fresh / VOCABULARY)
    save_conf(conf, fresh / SERVER_CONF)
    files = {name: _digest(fresh / name) for name in (PROGRAM, WEIGHTS, VOCABULARY, SERVER_CONF)}
    complete = msgspec.structs.replace(card, files=files)
    (fresh / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(complete), indent=2) + b"\n")
    shutil.rmtree(root / SERVER_DIR, ignore_errors=True)
    fresh.rename(root / SERVER_DIR)
    client = root / CLIENT_DIR
    client.mkdir(exist_ok=True)
    vocabulary.save(client / VOCABULARY)
    save_conf(conf, client / CLIENT_CONF)
    save_conf(conf, root / PUBLISHED_CONF)
    return open_bundle(root)
