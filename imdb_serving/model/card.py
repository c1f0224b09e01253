"""The card of a bundle: what a model is, how it was made or found to be, and what its files should be."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from imdb_serving.errors import BundleError
from imdb_serving.model.signature import TRAINED_GRAPH, TRAINED_PROGRAM, Input, Signature

SCHEMA = 2
IMPORTED = "imported"
"""The net of a model that was not trained here."""

TRAINED_LABELS = ("negative", "positive")


class _Schema(msgspec.Struct):
    """The fields that cards of every version have."""

    schema: int


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out of a model that was not trained here.

    `rows` is how many ids there are, 0 where the graph reads text; `longest` the most ids of a sample, 0 without a
    limit. `graph` is of the ONNX file and `program` of the Paddle files, None where there is none. `pads` says that
    padding does not change answers, `runs` which engines run it, `refused` why others do not, and `found` what trials
    on texts showed, in words.
    """

    source: str
    source_sha256: str
    tokenizer: Literal["words", "huggingface", "text"]
    labels: tuple[str, ...]
    rows: int = 0
    pad_id: int = 0
    unknown_id: int = -1
    longest: int = 0
    graph: Signature | None = None
    program: Signature | None = None
    pads: bool = False
    runs: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    found: dict[str, str] = {}


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is, how it was made or found to be, and what its files should be.

    Figures of training are those of nets that were trained here; other models are `imported`.
    """

    schema: int = SCHEMA
    net: str
    vocabulary: int
    sizes: dict[str, int]
    accuracy: float | None = None
    validation_accuracy: float | None = None
    epochs: int = 0
    seed: int = 0
    data_source: str = ""
    data_sha256: str = ""
    train_reviews: int = 0
    held_out_reviews: int = 0
    versions: dict[str, str]
    files: dict[str, str] = {}
    checksum: str = ""
    imported: Imported | msgspec.UnsetType = msgspec.UNSET

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names, in the order of their probabilities."""
        return self.imported.labels if self.imported else TRAINED_LABELS

    @property
    def rows(self) -> int:
        """How many ids there are; 0 where the graph reads text."""
        return self.imported.rows if self.imported else self.vocabulary + 2

    @property
    def pad_id(self) -> int:
        """The padding's id; of a trained net it is behind all words and the unknown one, and its vector is zero."""
        return self.imported.pad_id if self.imported else self.vocabulary + 1

    @property
    def longest(self) -> int:
        """The most ids of a sample; 0 without a limit."""
        return self.imported.longest if self.imported else 0

    @property
    def graph(self) -> Signature | None:
        """What the ONNX graph is fed; None without one."""
        return self.imported.graph if self.imported else TRAINED_GRAPH

    @property
    def program(self) -> Signature | None:
        """What the Paddle program is fed; None without one."""
        return self.imported.program if self.imported else TRAINED_PROGRAM

    @property
    def pads(self) -> bool:
        """True where padding does not change answers."""
        return self.imported.pads if self.imported else True

    @property
    def main_inputs(self) -> tuple[Input, ...]:
        """The inputs of the graph, or of the program where there is none."""
        signature = self.graph or self.program
        if signature is None:
            raise BundleError("the card names no graph and no program; import the model again")
        return signature.inputs

    @property
    def main(self) -> Input:
        """The input that ids or texts go into."""
        return next(one for one in self.main_inputs if one.role in {"ids", "text"})

    @property
    def again(self) -> str:
        """What to do about a bundle that is damaged."""
        return "import the model again" if self.imported else "train the model again"

    def digest(self) -> str:
        """Return the SHA-256 of the card itself, all but this checksum."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, checksum=""))).hexdigest()


def read_card(path: Path) -> ModelCard:
    """Read a card and check it; raise `BundleError` for one that is damaged, or of another version."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    try:
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
