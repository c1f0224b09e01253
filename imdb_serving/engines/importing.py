"""Makes a bundle of a model that was not trained here: reads its files, tries it on texts, and writes what it found.

The model runs in a process of its own, so that files which end a process do not end the command.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import imdb_serving
from imdb_serving.config import digest_of
from imdb_serving.engines.apart import Failed, run_apart
from imdb_serving.engines.registry import ENGINES, EngineSpec, make_engine
from imdb_serving.engines.trials import CLOSE, Trial
from imdb_serving.errors import BundleError, DataError
from imdb_serving.model import OLD_PROGRAM, ONNX, PROGRAM, TOKENIZER, VOCABULARY, WEIGHTS
from imdb_serving.model.bundle import Bundle, write_bundle
from imdb_serving.model.card import IMPORTED, Imported, ModelCard
from imdb_serving.model.conf import FLOAT32, INT64, STRING, ModelConf, Variable
from imdb_serving.model.drafts import Told, draft
from imdb_serving.model.signature import Probabilities, Sample, Signature
from imdb_serving.model.sources import (
    Ports,
    Source,
    find_source,
    graph_ports,
    join_weights,
    labels_beside,
    labels_in_graph,
    name_locale,
    program_ports,
)
from imdb_serving.packages import install
from imdb_serving.text.reviews import Vocabulary
from imdb_serving.text.tokenizers import HuggingFaceTokenizer, Tokenizer, WordTokenizer, is_huggingface, padding_id

SECONDS = 600.0
"""How long a model may take to be tried."""

EDGES = ("", "film", "Schöner Film! 🎬 很好", "<br /><br />")
"""Texts that are tried beside real ones."""

OPSET = 17


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
        card = _card(imported, files)
        return write_bundle(out, card, _conf(imported, classes), files)


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


Files = dict[str, Path]


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
        labels=_labels(source, options, classes),
        rows=rows,
        pad_id=pad_id if pad_id is not None else getattr(tokenizer, "unknown_id", 0),
        unknown_id=getattr(tokenizer, "unknown_id", -1) if kind == "words" else -1,
        longest=trial.longest,
        graph=trial.signature if source.graph else None,
        program=None if source.graph else trial.signature,
        pads=trial.pads,
        found={"classes": str(classes), **trial.found},
    )
    return _try_engines(imported, files, place, samples, trial.answers), classes, files


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


def _program_in(files: Files) -> Path:
    return files[OLD_PROGRAM if OLD_PROGRAM in files else PROGRAM]


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

    program = Program(_program_in(files), files[WEIGHTS])

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


def _labels(source: Source, options: Options, classes: int) -> tuple[str, ...]:
    if options.labels:
        if len(options.labels) != classes:
            raise BundleError(f"--labels names {len(options.labels)} classes, and the model has {classes}")
        return options.labels
    for found in (labels_beside(source.folder), labels_in_graph(source.graph) if source.graph else ()):
        if len(found) == classes:
            return found
    return tuple(map(str, range(classes)))


def _try_engines(
    imported: Imported, files: Files, place: Path, samples: Sequence[Sample], answers: Callable[..., Probabilities]
) -> Imported:
    """Return what is known with the engines that run the model, and why others do not."""
    first = "onnxruntime" if imported.graph else "paddle"
    refused: dict[str, str] = {}
    graph = imported.graph
    if graph is None:
        try:
            graph = _converted(imported, files, place)
        except DataError as error:
            refused["onnxruntime"] = str(error)
    elif not imported.program:
        refused["paddle"] = "it runs Paddle's own programs, and this is an ONNX graph"
    every = tuple(name for name, facts in ENGINES.items() if facts.needs_model and name not in refused)
    imported = msgspec.structs.replace(imported, graph=graph, runs=every, refused=refused)
    expected, found = answers(samples), dict(imported.found)
    for name in every:
        try:
            far = _difference(name, imported, files, place, samples, expected)
        except Exception as error:
            refused[name] = str(error)[:300]
            continue
        if far > CLOSE:
            refused[name] = f"its answers differ by up to {far:.2g} from those of {first}"
        elif name != first:
            found[f"answers of {name}"] = f"within {far:.1g} of those of {first}"
    runs = tuple(name for name in every if name not in refused)
    if not runs:
        raise BundleError(f"no engine runs it: {'; '.join(f'{name}: {why}' for name, why in refused.items())}")
    return msgspec.structs.replace(imported, runs=runs, refused=refused, found=found)


def _difference(
    name: str, imported: Imported, files: Files, place: Path, samples: Sequence[Sample], expected: Probabilities
) -> float:
    """Return how far an engine's answers are from those expected."""
    bundle = write_bundle(place / "tried", _card(imported, files), _conf(imported, expected.shape[1]), files)
    variant = next(iter(ENGINES[name].variants), "")
    engine = make_engine(EngineSpec(name, variant=variant), bundle)
    longest = imported.longest or None
    cut = [one if isinstance(one, str) else one[:longest] for one in samples]
    return float(np.abs(engine.run(cut) - expected).max())


def _converted(imported: Imported, files: Files, place: Path) -> Signature:
    """Convert a Paddle program to ONNX, add the file, and return its signature; raise `DataError` with the reason."""
    signature = imported.program
    if signature is None or any(one.ragged for one in signature.inputs):
        raise DataError("it runs ONNX graphs, and the program's ragged (LoD) inputs cannot be converted")
    if util.find_spec("paddle2onnx") is None:
        raise DataError(f"it runs ONNX graphs; {install('paddle2onnx')} makes one of the program; then import again")
    import paddle2onnx  # noqa: PLC0415

    program, graph = _program_in(files), place / ONNX
    try:
        paddle2onnx.export(str(program), str(files[WEIGHTS]), str(graph), opset_version=OPSET, optimize_tool="None")
        outputs: Ports = graph_ports(graph)
    except Exception as error:
        raise DataError(f"paddle2onnx cannot convert the program: {str(error)[:200]}") from error
    files[ONNX] = graph
    return msgspec.structs.replace(signature, output=outputs.outputs[0].name)


def _card(imported: Imported, files: Mapping[str, Path]) -> ModelCard:
    used = {"onnxruntime": imported.graph, "paddlepaddle": imported.program, "tokenizers": TOKENIZER in files}
    packages = [name for name, is_used in used.items() if is_used]
    return ModelCard(
        net=IMPORTED,
        vocabulary=imported.rows,
        sizes={"classes": len(imported.labels)},
        versions={
            "imdb_serving": imdb_serving.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        imported=imported,
    )


def _conf(imported: Imported, classes: int) -> ModelConf:
    """Return the variables of a bundle: the model's own input, called words, and the probabilities."""
    signature = imported.graph or imported.program
    if signature is None:
        raise BundleError("there is no graph and no program")
    main = signature.main
    return ModelConf(
        feed=(
            Variable(main.name, "words", True, STRING if signature.reads_text else INT64, (-1,)),
            Variable("label", "label", False, INT64, (1,)),
        ),
        fetch=(
            Variable("mean_0.tmp_0", "cost", False, FLOAT32, (1,)),
            Variable("accuracy_0.tmp_0", "acc", False, FLOAT32, (1,)),
            Variable(signature.output, "prediction", False, FLOAT32, (classes,)),
        ),
    )
