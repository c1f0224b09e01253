"""Makes a bundle of a model that was not trained here: reads its files, tries it on texts, and writes what it found.

The model runs in a process of its own, so that files which end a process do not end the command.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from imdb_serving.config import digest_of
from imdb_serving.engines.apart import Failed, run_apart
from imdb_serving.engines.cross_check import Files, card_of, conf_of, program_in, try_engines
from imdb_serving.engines.trials import Trial
from imdb_serving.errors import BundleError
from imdb_serving.model import OLD_PROGRAM, ONNX, PROGRAM, TOKENIZER, VOCABULARY, WEIGHTS
from imdb_serving.model.bundle import Bundle, write_bundle
from imdb_serving.model.card import Imported, ModelCard
from imdb_serving.model.drafts import Told, draft
from imdb_serving.model.graphs import labels_in_graph, name_locale
from imdb_serving.model.ports import Ports, graph_ports, program_ports
from imdb_serving.model.signature import Sample, Signature
from imdb_serving.model.sources import Source, find_source, join_weights, labels_beside
from imdb_serving.packages import require
from imdb_serving.text.reviews import Vocabulary
from imdb_serving.text.tokenizers import HuggingFaceTokenizer, Tokenizer, WordTokenizer, is_huggingface, padding_id

SECONDS = 600.0
"""How long a model may take to be tried."""

EDGES = ("", "film", "Schöner Film! 🎬 很好", "<br /><br />")
"""Texts that are tried beside real ones."""


class Options(msgspec.Struct, frozen=True):
    """What a user says of a model beside its files; what is left open is found out, or asked for."""

    tokenizer: Path | None = None
    labels: tuple[str, ...] = ()
    told: Told = Told()
    pad_id: int | None = None
    unknown_id: int = -1
    longest: int = 0


def import_model(path: Path, out: Path, options: Options, texts: Sequence[str]) -> Bundle:
    """Try the model at `path` on texts and write its bundle below `out`.

    Raises `BundleError` or `DataError` saying what is wrong, or which option says what could not be found out.
    """
    source = find_source(path)
    if source.program:
        require("paddlepaddle")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(f"cannot write a model to {out}: {error.strerror}") from error
    with tempfile.TemporaryDirectory(dir=out, prefix=".import-") as place:
        work = partial(_examine, source, options, [*texts, *EDGES], Path(place))
        try:
            imported, classes, files = run_apart(work, SECONDS, silent=True)
        except Failed as error:
            raise BundleError(f"{path} cannot be run: {error}") from error
        card = card_of(imported, files)
        return write_bundle(out, card, conf_of(imported, classes), files)


def told(card: ModelCard) -> dict[str, str]:
    """Return what a card says of a model that was imported, a line each."""
    imported, signature = card.imported, card.graph or card.program
    if not imported or signature is None:
        return {}
    lines = {
        "model": f"{imported.source}, {len(card.labels)} classes: {', '.join(card.labels)}",
        "inputs": ", ".join(f"{one.name} ({one.role}, {one.dtype} [{one.axes}])" for one in signature.inputs),
        "output": f"{signature.output} ({signature.gives})",
        "tokenizer": f"{imported.tokenizer}, {imported.rows:,} ids" if imported.rows else "within the model",
        **{name: words for name, words in imported.found.items() if name != "classes"},
        "engines": ", ".join(imported.runs),
    }
    return lines | {f"not {name}": why for name, why in imported.refused.items()}


def _examine(source: Source, options: Options, texts: Sequence[str], place: Path) -> tuple[Imported, int, Files]:
    """Return what a model is, how many classes it has, and its files by their names in the bundle."""
    ports = graph_ports(source.graph) if source.graph else program_ports(_program_of(source))
    drafted = draft(ports, _told(source, ports, options))
    files = _files(source, place)
    tokenizer, kind, pad_id = _tokenizer(source, drafted, options, files)
    samples: list[Sample] = [_sample(tokenizer, text, pad_id) for text in texts]
    longest = options.longest or getattr(tokenizer, "longest", 0)
    trial = Trial(_output_of(files, place), drafted, samples, pad_id, options.told.gives, longest)
    trial.lay_out()
    if tokenizer:
        _check_rows(trial, tokenizer, options)
    answers = trial.run()
    classes = answers.shape[1]
    rows = max(tokenizer.rows, (pad_id or 0) + 1) if tokenizer else 0
    imported = Imported(
        source=source.path.name,
        source_sha256=digest_of(*source.files),
        tokenizer=kind,
        labels=_labels(source, options, classes, trial.signature.gives),
        rows=rows,
        pad_id=pad_id if pad_id is not None else getattr(tokenizer, "unknown_id", 0),
        unknown_id=getattr(tokenizer, "unknown_id", -1) if kind == "words" else -1,
        longest=trial.longest,
        graph=trial.signature if source.graph else None,
        program=None if source.graph else trial.signature,
        pads=trial.pads,
        found={"classes": str(classes), **trial.found},
    )
    return try_engines(imported, files, place, samples, trial.answers), classes, files


def _told(source: Source, ports: Ports, options: Options) -> Told:
    """Return what the user says, and where that leaves the output open, what Paddle Serving's conf calls prediction."""
    fetch = source.conf.fetch if source.conf else ()
    named = next((one.name for one in fetch if one.alias_name == "prediction"), "")
    known = named in {port.name for port in ports.outputs}
    return msgspec.structs.replace(options.told, output=options.told.output or (named if known else ""))


def _program_of(source: Source) -> Path:
    if source.program is None:
        raise BundleError(f"{source.path} has no graph and no program")
    return source.program


def _files(source: Source, place: Path) -> Files:
    """Return the model's files by their names in a bundle; weights in many files are joined in `place`."""
    if source.graph:
        return {ONNX: source.graph, **{one.name: one for one in source.beside}}
    program, weights = _program_of(source), source.weights[0]
    if len(source.weights) > 1:
        weights = place / WEIGHTS
        join_weights(source.weights, weights)
    return {PROGRAM if program.suffix == ".json" else OLD_PROGRAM: program, WEIGHTS: weights}


def _output_of(files: Files, place: Path) -> Callable[[Signature, Sequence[Sample], int], Any]:
    """Return what runs the model as it came, but for a locale that this machine lacks."""
    if ONNX in files:
        from imdb_serving.engines.onnxruntime import open_session, output_of  # noqa: PLC0415 - as the registry has it

        try:
            session = open_session(files[ONNX], 1)
        except BundleError as error:
            if "locale" not in str(error) or not name_locale(files[ONNX], place / ONNX):
                raise
            files[ONNX] = place / ONNX
            session = open_session(files[ONNX], 1)
        return partial(output_of, session)
    from imdb_serving.engines.paddle import Program  # noqa: PLC0415

    program = Program(program_in(files), files[WEIGHTS])

    def run(signature: Signature, samples: Sequence[Any], pad_id: int) -> Any:
        if signature.output:
            program.choose(signature.output)
        return program.output_of(signature, samples, pad_id)

    return run


def _tokenizer(
    source: Source, drafted: Signature, options: Options, files: Files
) -> tuple[Tokenizer | None, Any, int | None]:
    """Return the tokenizer, its kind and the padding id, and add its file."""
    beside = (source.folder / name for name in (TOKENIZER, VOCABULARY))
    path = options.tokenizer or next((one for one in beside if one.is_file()), None)
    if drafted.reads_text:
        if options.tokenizer:
            raise BundleError(f"the model reads texts by its input {drafted.main.name!r}; leave --tokenizer out")
        return None, "text", 0
    if path is None:
        raise BundleError(
            f"the model reads ids by its input {drafted.main.name!r}, and {source.folder} has no {TOKENIZER}; say what "
            "makes them: --tokenizer FILE, a tokenizer.json or a vocabulary with a word a line"
        )
    if is_huggingface(path):
        files[TOKENIZER] = path
        found = options.pad_id if options.pad_id is not None else padding_id(path)
        return HuggingFaceTokenizer(path, options.longest), "huggingface", found
    files[VOCABULARY] = path
    return WordTokenizer(Vocabulary.load(path), options.unknown_id, options.longest), "words", options.pad_id


def _sample(tokenizer: Tokenizer | None, text: str, pad_id: int | None) -> Sample:
    if tokenizer is None:
        return text
    ids = tokenizer.encode(text)
    return ids if len(ids) else np.array([pad_id if pad_id is not None else tokenizer.blank_id], dtype=np.int64)


def _check_rows(trial: Trial, tokenizer: Tokenizer, options: Options) -> None:
    """Refuse a tokenizer with more ids than the model has rows: requests would fail."""
    last = tokenizer.rows - 1
    try:
        trial.raw([trial.resized([last])])
    except Exception as error:
        words = isinstance(tokenizer, WordTokenizer)
        said = f"the id {last} of an unknown word" if words and options.unknown_id < 0 else f"the tokenizer's id {last}"
        remedy = "say which id it has: --unknown-id NUMBER" if words else "it is another model's tokenizer"
        raise BundleError(f"the model fails with {said}: {str(error)[:200]}; {remedy}") from error


def _labels(source: Source, options: Options, classes: int, gives: str) -> tuple[str, ...]:
    if options.labels:
        if len(options.labels) != classes:
            raise BundleError(f"--labels names {len(options.labels)} classes, and the model has {classes}")
        return options.labels
    in_graph = labels_in_graph(source.graph, mapped=gives == "maps") if source.graph else ()
    for found in (labels_beside(source.folder), in_graph):
        if len(found) == classes:
            return found
    return tuple(map(str, range(classes)))
