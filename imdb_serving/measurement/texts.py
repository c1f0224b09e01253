"""What a measurement sends: packaged reviews or a file's texts, as the lines that a model reads."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from imdb_serving.cell import FOREIGN
from imdb_serving.errors import DataError
from imdb_serving.measurement.models import opened
from imdb_serving.measurement.parameters import GridParams, LadderParams, model_there
from imdb_serving.model import CARD, find_server_dir
from imdb_serving.model.card import TRAINED_LABELS
from imdb_serving.text import rows
from imdb_serving.text.drawing import class_of, drawn, line_of, packaged_vocabulary, rows_of
from imdb_serving.text.formats import UNLABELLED, Example, Line, LineFormat
from imdb_serving.text.rows import TextFile
from imdb_serving.text.tokenizers import Tokenizer, WordTokenizer


def tokenizer_or_packaged(model: Path | None) -> Tokenizer | None:
    """Return a model's tokenizer, None for one that reads text; without a model the packaged reviews' vocabulary."""
    return opened(model).tokenizer if model else WordTokenizer(packaged_vocabulary())


def measurement_lines(samples: int, seed: int, model: Path | None, file: TextFile | None = None) -> list[Line]:
    """Return the texts that a measurement sends, packaged held-out reviews or a file's, as lines that a model reads.

    They are ids, or texts for a model that reads those; labels are the model's own classes, if those are known. Raises
    `DataError` for a file that cannot be used, with the line that is wrong.
    """
    changed = (find_server_dir(model) / CARD).stat().st_mtime_ns if model else 0
    return list(_lines(samples, seed, model, file, changed))


def lines_of(params: GridParams | LadderParams, samples: int) -> list[Line]:
    """Return the texts that a run of these parameters sends; see `measurement_lines`."""
    file = params.text_file
    return measurement_lines(samples, params.seed, model_there(params), *([file] if file else []))


@functools.lru_cache(maxsize=4)
def _lines(samples: int, seed: int, model: Path | None, file: TextFile | None, _changed: int) -> tuple[Line, ...]:
    """Draw the lines, which takes most of a second; a process that measures several grid runs draws them once."""
    labels = opened(model).card.labels if model else TRAINED_LABELS
    tokenizer = tokenizer_or_packaged(model)
    rows = opened(model).card.rows if model else 0
    examples = _of_file(file, samples, seed, labels) if file else _packaged(samples, seed, labels)
    classes = len(labels) if all(example.label != UNLABELLED for _, example in examples) else 0
    source = str(file.path) if file else "packaged"
    found = []
    for number, example in examples:
        if example.words is not None and model:
            _check_words(example, rows, f"{source}, line {number}")
        if example.words is not None or tokenizer:
            content = line_of(example, example.label if classes else UNLABELLED, tokenizer)
        else:
            content = f"{example.text} | {example.label}" if classes else example.text or ""
        kind: LineFormat = "ids" if tokenizer else "text"
        found.append(Line(source, number, content, classes, kind))
    return tuple(found)


Numbered = list[tuple[int, Example]]


def _packaged(samples: int, seed: int, labels: Sequence[str]) -> Numbered:
    known = {raw: class_of(name, labels) for raw, name in enumerate(TRAINED_LABELS)}
    if UNLABELLED in known.values():
        known = dict.fromkeys(known, UNLABELLED)
    return [(number, replace(one, label=known[one.label])) for number, one in enumerate(drawn(samples, seed), start=1)]


def _of_file(file: TextFile, samples: int, seed: int, labels: Sequence[str]) -> Numbered:
    """Return the texts that are drawn of a file, by their lines; their labels, if each is one of the model's."""
    every, columns = rows_of(file)
    found: Numbered = []
    for row in rows.draw(every, samples, seed):
        raw = row.get(columns.label) if columns.label else None
        label = class_of(raw, labels)
        if label == UNLABELLED and file.columns.label:
            raise DataError(
                f"data: {file.path}, line {row.line}: {columns.label} is {raw!r:.60}, and the model's classes are "
                f"{', '.join(labels)}"
            )
        words = row.get("words") if not columns.text else None
        text = None if words is not None else rows.text_of(row, columns, file.path)
        found.append((row.line, Example(label, text, words)))
    return found


def _check_words(example: Example, rows: int, place: str) -> None:
    if not rows:
        raise DataError(f"data: {place}, holds word ids, and the model reads texts")
    if example.words is not None and len(example.words) and example.words.max() >= rows:
        raise DataError(f"data: {place}, has the word id {example.words.max()}, and the model's are below {rows}")


def length_mix(lines: Sequence[Line]) -> str:
    """Return in words how many texts there are, from where, and how long they are."""
    ids = lines[0].kind == "ids"
    lengths = [int(line.content.split(" ", 1)[0]) if ids else len(line.content.split()) for line in lines]
    tenth, half, most = (int(value) for value in np.quantile(lengths, [0.1, 0.5, 0.9]))
    unit = "ids" if ids else "words"
    labelled = "" if lines[0].classes else ", without labels"
    of = "the packaged reviews" if lines[0].source == "packaged" else Path(lines[0].source).name
    return (
        f"{len(lines):,} of {of}{labelled}; a tenth up to {tenth:,} {unit}, "
        f"half up to {half:,}, nine tenths up to {most:,}, the longest {max(lengths):,}"
    )


def texts_in_words(params: GridParams) -> str:
    """Return in words what texts a run sends; those of a server of someone else are counted only."""
    if params.mode != FOREIGN:
        return length_mix(lines_of(params, params.samples))
    return f"{params.samples:,} of {params.data_file.name if params.data else 'the packaged reviews'}"
