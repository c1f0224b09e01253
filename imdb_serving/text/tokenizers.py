"""Text to ids as a model wants them: words of a vocabulary, or a Hugging Face `tokenizer.json`. Knows no model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from imdb_serving.errors import DataError
from imdb_serving.packages import install
from imdb_serving.text.reviews import Vocabulary, tokenise

MAX_TOKENIZER_BYTES = 128 << 20
"""The files of the largest published models have a quarter of that."""

PADDING = ("[PAD]", "<pad>", "<PAD>", "[pad]")
"""What the padding token is called in files that do not say it."""

BLANKS = ("[MASK]", "<mask>", "[UNK]", "<unk>")
"""Tokens that stand for a word that is left out, the best first."""

T = TypeVar("T")


class Tokenizer(Protocol):
    """Text to ids, for one thread at a time or several."""

    @property
    def rows(self) -> int:
        """How many ids there are: each is below that."""

    @property
    def blank_id(self) -> int:
        """The id that says least: of a word that is left out."""

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a text, shape (tokens,), int64; may be empty."""

    def tokens(self, text: str) -> list[tuple[str, bool]]:
        """Return what each id of `encode` stands for, and whether it is known."""


class WordTokenizer:
    """The words of a vocabulary, as the published benchmark splits them; one that is not in it is `unknown_id`.

    More than `longest` are cut; 0 sets no limit.
    """

    def __init__(self, vocabulary: Vocabulary, unknown_id: int = -1, longest: int = 0, blank_id: int = -1) -> None:
        """Take the words; ids below 0 are those that follow: of the unknown word the number of words, then the same."""
        self.vocabulary, self._longest = vocabulary, longest or None
        self.unknown_id = vocabulary.unknown if unknown_id < 0 else unknown_id
        self.rows = max(len(vocabulary), self.unknown_id + 1)
        self.blank_id = self.unknown_id if blank_id < 0 else blank_id

    def encode(self, text: str) -> NDArray[np.int64]:
        ids = self.vocabulary.encode(text)[: self._longest]
        return ids if self.unknown_id == self.vocabulary.unknown else self._with_unknown(ids)

    def _with_unknown(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        ids[ids == self.vocabulary.unknown] = self.unknown_id
        return ids

    def tokens(self, text: str) -> list[tuple[str, bool]]:
        return [(word, word in self.vocabulary) for word in tokenise(text)[: self._longest]]


class HuggingFaceTokenizer:
    """A `tokenizer.json` of Hugging Face, special tokens and all, padding left out.

    `longest` cuts as the file says it cuts, special tokens kept; 0 takes the limit in the file, if it has one.
    """

    def __init__(self, path: Path, longest: int = 0) -> None:
        """Read the file; raise `DataError` when it is none."""
        self._tokenizer = _read(path)
        self.longest = longest or (self._tokenizer.truncation or {}).get("max_length", 0)
        _tried(self._tokenizer.no_padding, path)
        if self.longest:
            cut = self._tokenizer.truncation or {}
            kept = {name: cut[name] for name in ("stride", "strategy", "direction") if name in cut}
            _tried(lambda: self._tokenizer.enable_truncation(max_length=self.longest, **kept), path)
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self.rows = max(vocabulary.values(), default=-1) + 1
        if not self.rows:
            raise DataError(f"the tokenizer {path} has no token")
        found = (vocabulary[name] for name in (*BLANKS, *PADDING) if name in vocabulary)
        self.blank_id: int = next(found, 0)
        self._unknown = {vocabulary[name] for name in BLANKS[2:] if name in vocabulary}

    def encode(self, text: str) -> NDArray[np.int64]:
        return np.array(self._tokenizer.encode(text).ids, dtype=np.int64)

    def tokens(self, text: str) -> list[tuple[str, bool]]:
        encoded = self._tokenizer.encode(text)
        return [(token, number not in self._unknown) for token, number in zip(encoded.tokens, encoded.ids, strict=True)]


def padding_id(path: Path) -> int | None:
    """Return the id that a `tokenizer.json` pads with, or None where it names none."""
    tokenizer = _read(path)
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    found = (tokenizer.token_to_id(name) for name in PADDING)
    return next((number for number in found if number is not None), None)


def is_huggingface(path: Path) -> bool:
    """Tell whether a tokenizer's file is JSON, as Hugging Face's are; a vocabulary has a word a line."""
    try:
        with path.open("rb") as file:
            return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError as error:
        raise DataError(f"cannot read the tokenizer {path}: {error.strerror}") from error


def _read(path: Path) -> Any:
    # One text at a time: threads of its own would only be in the way of other workers, and not survive a fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from tokenizers import Tokenizer as Library  # noqa: PLC0415 - only models that were imported need it
    except ImportError as error:
        raise DataError(f"the tokenizer {path} needs the package tokenizers: {install('tokenizers')}") from error
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise DataError(f"the tokenizer {path} is too large: at most {MAX_TOKENIZER_BYTES >> 20} MiB are read")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the tokenizer {path}: {error.strerror}") from error
    return _tried(lambda: Library.from_buffer(content), path)


def _tried(make: Callable[[], T], path: Path) -> T:
    """Return what a call of the library returns; what it raises has no common base, and a panic is no `Exception`."""
    try:
        return make()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise DataError(f"{path} is no tokenizer that can be used here: {error}") from error
