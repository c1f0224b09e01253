"""Texts drawn by seed, of the packaged reviews or a file, and labels as places among classes. Knows no model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from imdb_serving.errors import DataError
from imdb_serving.text import reviews, rows
from imdb_serving.text.formats import UNLABELLED, Example, LineFormat, format_ids, format_text
from imdb_serving.text.reviews import Vocabulary, tokenise
from imdb_serving.text.rows import Columns, TextFile
from imdb_serving.text.sampling import sample_by_length
from imdb_serving.text.tokenizers import Tokenizer

MINIMUM_COUNT = 2


def training_vocabulary(source: reviews.Reviews) -> Vocabulary:
    """Return the vocabulary that training on `source` makes; raise `DataError` when the source has no text."""
    texts = [example.text for example in source.train if example.text is not None]
    if len(texts) != len(source.train):
        raise DataError(f"{source.source} holds word ids only; give the vocabulary they were made with")
    return Vocabulary.build(texts, MINIMUM_COUNT)


@functools.lru_cache(maxsize=1)
def packaged_vocabulary() -> Vocabulary:
    """Return the vocabulary of the packaged reviews, made once a process: it takes seconds."""
    return training_vocabulary(reviews.load("packaged"))


def draw_lines(
    source: reviews.Reviews, kind: LineFormat, samples: int, seed: int, tokenizer: Tokenizer | None
) -> list[str]:
    """Draw `samples` held-out reviews, the length mix kept, each written as one line without its line end.

    A tokenizer is needed to write text as ids. Raises `DataError` for text wanted of a source of ids.
    """
    found = _draw(source, samples, seed)
    if kind == "text" and any(example.text is None for example in found):
        raise DataError(f"{source.source} holds word ids only and cannot be written as text")
    if kind == "ids" and tokenizer is None and any(example.words is None for example in found):
        raise DataError("writing reviews as word ids needs a vocabulary")
    return [line_of(example, example.label, tokenizer if kind == "ids" else None) for example in found]


def line_of(example: Example, label: int, tokenizer: Tokenizer | None) -> str:
    """Return a review as a line with a label: as ids, or as text without a tokenizer."""
    if example.words is not None:
        return format_ids(example.words, label)
    text = example.text or ""
    return format_ids(tokenizer.encode(text), label) if tokenizer else format_text(text, label)


def _draw(source: reviews.Reviews, samples: int, seed: int) -> list[Example]:
    examples = source.held_out
    lengths = [
        len(example.words) if example.words is not None else len(tokenise(example.text or "")) for example in examples
    ]
    return [examples[index] for index in sample_by_length(lengths, samples, seed)]


@functools.lru_cache(maxsize=4)
def drawn(samples: int, seed: int) -> tuple[Example, ...]:
    """Return the packaged held-out reviews that a measurement sends: those of `measurement_lines`, as text."""
    return tuple(_draw(reviews.load("packaged"), samples, seed))


@functools.lru_cache(maxsize=2)
def rows_of(file: TextFile) -> tuple[list[rows.Row], Columns]:
    """Return the rows of a file of texts, and which of its columns have the text and the label."""
    every = rows.read(file.path)
    return every, rows.columns_of(every, file.columns, file.path)


def texts_of(file: TextFile | None, samples: int, seed: int) -> list[str]:
    """Return texts as a measurement draws them; raise `DataError` for a file of word ids."""
    if file is None:
        return [one.text or "" for one in drawn(samples, seed)]
    every, columns = rows_of(file)
    if not columns.text:
        raise DataError(f"data: {file.path} holds word ids, and texts are needed")
    return [rows.text_of(row, columns, file.path) for row in rows.draw(every, samples, seed)]


SAME_CLASSES = (frozenset({"negative", "neg"}), frozenset({"positive", "pos"}))
"""Names that mean the same class."""


def class_of(raw: Any, labels: Sequence[str]) -> int:
    """Return the place among a model's classes of a label as it stands in data: its name or its number; -1 for none."""
    names = [label.strip().lower() for label in labels]
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)
    told = str(raw).strip().lower()
    if told in names:
        return names.index(told)
    if told.isascii() and told.isdigit() and int(told) < len(names):
        return int(told)
    same = next((group for group in SAME_CLASSES if told in group), frozenset())
    return next((place for place, name in enumerate(names) if name in same), UNLABELLED)
