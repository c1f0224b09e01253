"""What a measurement serves and sends: the model (trained when missing), the reviews, and the bare engine's answers.

Clients without a server are here as well: the model alone, and the pipeline in this process.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

import imdb_serving
from imdb_serving.cell import FOREIGN, digest
from imdb_serving.clients.base import Client
from imdb_serving.config import is_project, project_root, whole_file
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import ConfigError, DataError
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.load.closed_loop import Share
from imdb_serving.load.workload import ReviewWorkload
from imdb_serving.measurement.measure import Probabilities
from imdb_serving.measurement.parameters import GridParams, LadderParams, SweepParams, model_folder, model_there
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.model import CARD, find_server_dir
from imdb_serving.model.bundle import Bundle, open_bundle
from imdb_serving.model.card import TRAINED_LABELS
from imdb_serving.pipeline import InferOp, Pipeline, ReaderOp, Work, imdb_pipeline
from imdb_serving.protocol import json_bodies
from imdb_serving.text import reviews, rows
from imdb_serving.text.formats import UNLABELLED, Example, Line, LineFormat, format_ids, format_text
from imdb_serving.text.reviews import Vocabulary, tokenise
from imdb_serving.text.rows import Columns, TextFile
from imdb_serving.text.sampling import sample_by_length
from imdb_serving.text.tokenizers import Tokenizer, WordTokenizer
from imdb_serving.timing import Stage, Timeline


@functools.lru_cache(maxsize=1)
def _pipeline(spec: EngineSpec, model: Path | None) -> Pipeline:
    """Make the pipeline, once a process: the local clients of one process share its engine."""
    bundle: Bundle | None = open_bundle(model) if model else None
    return imdb_pipeline(spec, bundle)


class InprocClient(Client):
    """Runs the pipeline in the calling thread: what a request costs without a server."""

    def __init__(self, spec: EngineSpec, model: Path | None) -> None:
        """Make the pipeline, which takes seconds for Paddle."""
        self._spec = spec
        self._pipeline = _pipeline(spec, model)

    def call(self, request: Request) -> Reply:
        """Return the pipeline's reply; its stages are the ops."""
        return self._pipeline(request, Timeline())

    def hello(self) -> ServerInfo:
        version = imdb_serving.__version__
        return ServerInfo("inproc", version, self._spec.name, "", 1, "thread", (), (), 0, os.getpid())

    def close(self) -> None:
        """Do nothing: the engine stays with the process."""


class BareClient(InprocClient):
    """Runs the engine alone on feeds made beforehand. Only its stage `op1` counts."""

    def call(self, request: Request) -> Reply:
        begun = perf_counter_ns()
        work = Work(request)
        ops = self._pipeline.ops
        next(op for op in ops if isinstance(op, ReaderOp)).run(work)
        infer = next(op for op in ops if isinstance(op, InferOp))
        laid_out = perf_counter_ns()
        infer.run(work)
        stages = [Stage("op0", begun, laid_out), Stage("op1", laid_out, perf_counter_ns())]
        assert work.probabilities is not None  # noqa: S101 - op1 has run
        return Reply({"prediction": np.asarray(work.probabilities)}, stages)


class JsonClient(InprocClient):
    """Runs the pipeline behind JSON bodies that nobody sends: what the HTTP service's encoding costs by itself."""

    def call(self, request: Request) -> Reply:
        """Pass the request and the reply through their bodies; stages as HTTP's, less its ways and waits."""
        begun = perf_counter_ns()
        body = json_bodies.encode_request(request)
        encoded = perf_counter_ns()
        received, form = json_bodies.decode_request(body)
        parsed = perf_counter_ns()
        reply = self._pipeline(received, Timeline())
        ready = perf_counter_ns()
        answer = json_bodies.encode_reply(reply, form)
        arrived = perf_counter_ns()
        outputs = json_bodies.decode_reply(answer, request.samples)
        before = [Stage("encode", begun, encoded), Stage("parse", encoded, parsed)]
        after = [Stage("reply", ready, arrived), Stage("decode", arrived, perf_counter_ns())]
        return Reply(outputs, [*before, *reply.stages, *after])


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
    return [_line_of(example, example.label, tokenizer if kind == "ids" else None) for example in found]


def _line_of(example: Example, label: int, tokenizer: Tokenizer | None) -> str:
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


def tokenizer_or_packaged(model: Path | None) -> Tokenizer | None:
    """Return a model's tokenizer, None for one that reads text; without a model the packaged reviews' vocabulary."""
    return opened(model).tokenizer if model else WordTokenizer(_packaged_vocabulary())


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
            content = _line_of(example, example.label if classes else UNLABELLED, tokenizer)
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
    every, columns = _rows_of(file)
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


@functools.lru_cache(maxsize=2)
def _rows_of(file: TextFile) -> tuple[list[rows.Row], Columns]:
    every = rows.read(file.path)
    return every, rows.columns_of(every, file.columns, file.path)


def texts_of(file: TextFile | None, samples: int, seed: int) -> list[str]:
    """Return texts as a measurement draws them; raise `DataError` for a file of word ids."""
    if file is None:
        return [one.text or "" for one in drawn(samples, seed)]
    every, columns = _rows_of(file)
    if not columns.text:
        raise DataError(f"data: {file.path} holds word ids, and texts are needed")
    return [rows.text_of(row, columns, file.path) for row in rows.draw(every, samples, seed)]


def _check_words(example: Example, rows: int, place: str) -> None:
    if not rows:
        raise DataError(f"data: {place}, holds word ids, and the model reads texts")
    if example.words is not None and len(example.words) and example.words.max() >= rows:
        raise DataError(f"data: {place}, has the word id {example.words.max()}, and the model's are below {rows}")


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


def ensure_model(folder: Path, net: str) -> None:
    """Train the default model of `net` into `folder` when it has none; a damaged one is an error."""
    if find_server_dir(folder).is_dir() and any(folder.iterdir()):
        open_bundle(folder)
        return
    from imdb_serving.model.training import TrainingPlan, train_bundle
    from imdb_serving.text.reviews import load

    print(f"no model at {folder}: training {net}, half a minute or so, once", flush=True)
    train_bundle(TrainingPlan(net=net), load("packaged"), folder)


def require_model(params: GridParams | SweepParams | LadderParams) -> None:
    """Require a model: a named one must exist, the project's default is trained when missing."""
    if params.model:
        opened(model_folder(params))
    elif is_project(project_root()):
        ensure_model(model_folder(params), params.net)
    else:
        raise ConfigError(f"{Path.cwd()} is not within the project's folder; go there, or name a model: -p model DIR")


@functools.lru_cache(maxsize=4)
def opened(folder: Path) -> Bundle:
    """Open a bundle, once a process: to check all its files takes a moment."""
    return open_bundle(folder)


def model_id(model: Path | None) -> str:
    """Return the identity of a model's content, empty for none; raise `BundleError` for a missing or damaged one."""
    return opened(model).card.checksum[:12] if model else ""


def bundle_there(folder: Path) -> Bundle | None:
    """Return the bundle in a folder, or None."""
    return opened(folder) if find_server_dir(folder).is_dir() and any(folder.iterdir()) else None


FOLDER = "answers"
SECONDS_A_REVIEW = 10.0


def reference_answers(
    folder: Path, spec: EngineSpec, model: Path | None, model_id: str, lines: Sequence[Line]
) -> Probabilities:
    """Return the bare engine's probabilities [lines, classes], computed once for a sweep's folder.

    Raises `DataError` when the engine fails.
    """
    if spec.facts.timed:  # its answers are at once what they are after some time
        spec = replace(spec, service_time_ms=0.0)
    engine = (spec.name, spec.math_threads, spec.variant)
    path = folder / FOLDER / f"{digest(engine, model_id, 'of all classes', [line.content for line in lines])}.npy"
    if path.is_file():
        kept: Probabilities = np.load(path, allow_pickle=False)
        return kept
    workload = ReviewWorkload.plain(lines, fetch=("prediction",))
    connect = functools.partial(BareClient, spec, model)
    with LoadSession({"": connect}, 1, SECONDS_A_REVIEW) as session:
        (record,) = session.run("", [Share.whole(workload)])
    if record.failures:
        raise DataError(f"the bare engine {spec.name} fails: {record.failures[0].message}")
    answers = np.array([result.shares for outcome in record.outcomes for result in outcome])
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, answers, allow_pickle=False)
    return answers
