"""The reviews a measurement sends: drawn by seed from the held-out ones, as lines in a published format."""

from __future__ import annotations

import functools
from pathlib import Path

from imdb_serving.errors import DataError
from imdb_serving.text import reviews
from imdb_serving.text.lines import Line, LineFormat, format_ids, format_text
from imdb_serving.text.sampling import sample_by_length
from imdb_serving.text.vocabulary import Vocabulary, tokenise

MINIMUM_COUNT = 2


def training_vocabulary(source: reviews.Reviews) -> Vocabulary:
    """Return the vocabulary that training on `source` makes; raise `DataError` when the source has no text."""
    texts = [example.text for example in source.train if example.text is not None]
    if len(texts) != len(source.train):
        raise DataError(f"{source.source} holds word ids only; give the vocabulary they were made with")
    return Vocabulary.build(texts, MINIMUM_COUNT)


@functools.lru_cache(maxsize=1)
def _packaged_vocabulary() -> Vocabulary:
    """Make it once a process, which takes seconds."""
    return training_vocabulary(reviews.load("packaged"))


def draw_lines(
    source: reviews.Reviews, kind: LineFormat, samples: int, seed: int, vocabulary: Vocabulary | None
) -> list[str]:
    """Draw `samples` held-out reviews, the length mix kept, each written as one line without its line end.

    `vocabulary` is needed to write text as ids. Raises `DataError` for text wanted of a source of ids.
    """
    examples = source.held_out
    lengths = [
        len(example.words) if example.words is not None else len(tokenise(example.text or "")) for example in examples
    ]
    lines = []
    for index in sample_by_length(lengths, samples, seed):
        example = examples[index]
        if kind == "text":
            if example.text is None:
                raise DataError(f"{source.source} holds word ids only and cannot be written as text")
            lines.append(format_text(example.text, example.label))
        elif example.words is not None:
            lines.append(format_ids(example.words, example.label))
        elif vocabulary is not None:
            lines.append(format_ids(vocabulary.encode(example.text or ""), example.label))
        else:
            raise DataError("writing reviews as word ids needs a vocabulary")
    return lines


def measurement_lines(samples: int, seed: int, vocabulary_file: Path | None) -> list[Line]:
    """Return the packaged held-out reviews that a measurement sends, as numbered lines of word ids."""
    source = reviews.load("packaged")
    vocabulary = Vocabulary.load(vocabulary_file) if vocabulary_file else _packaged_vocabulary()
    lines = draw_lines(source, "ids", samples, seed, vocabulary)
    return [Line("packaged", number, content) for number, content in enumerate(lines, start=1)]
