"""Words and their ids, as the published benchmark defines them.

This file owns tokenisation and the vocabulary file; it knows no data source and no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imdb_serving.errors import DataError
from imdb_serving.text import formats

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
