"""Which engines run a model that was not trained here, and agree with the one that it came for; its card and conf."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

import imdb_serving
from imdb_serving.engines.registry import ENGINES, EngineSpec, make_engine, missing_package
from imdb_serving.engines.trials import CLOSE
from imdb_serving.errors import BundleError, DataError
from imdb_serving.model import OLD_PROGRAM, ONNX, PROGRAM, TOKENIZER, WEIGHTS
from imdb_serving.model.bundle import write_bundle
from imdb_serving.model.card import IMPORTED, Imported, ModelCard
from imdb_serving.model.conf import FLOAT32, INT64, STRING, ModelConf, Variable
from imdb_serving.model.ports import Ports, graph_ports
from imdb_serving.model.signature import Probabilities, Sample, Signature
from imdb_serving.packages import install, is_installed

OPSET = 17

Files = dict[str, Path]
"""The files of a bundle by their names in it."""


def program_in(files: Files) -> Path:
    """Return the Paddle program among a bundle's files."""
    return files[OLD_PROGRAM if OLD_PROGRAM in files else PROGRAM]


def try_engines(
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
    refused |= not_installed(refused)
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


def not_installed(refused: Mapping[str, str]) -> dict[str, str]:
    """Return why engines that are not refused yet cannot be tried."""
    missing = {name: missing_package(facts) for name, facts in ENGINES.items() if name not in refused}
    return {
        name: f"it was not tried, for it needs the package {package}: {install(package)}, then import again"
        for name, package in missing.items()
        if package
    }


def _difference(
    name: str, imported: Imported, files: Files, place: Path, samples: Sequence[Sample], expected: Probabilities
) -> float:
    """Return how far an engine's answers are from those expected."""
    bundle = write_bundle(place / "tried", card_of(imported, files), conf_of(imported, expected.shape[1]), files)
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
    if not is_installed("paddle2onnx"):
        raise DataError(f"it runs ONNX graphs; {install('paddle2onnx')} makes one of the program; then import again")
    import paddle2onnx  # noqa: PLC0415

    program, graph = program_in(files), place / ONNX
    try:
        paddle2onnx.export(str(program), str(files[WEIGHTS]), str(graph), opset_version=OPSET, optimize_tool="None")
        outputs: Ports = graph_ports(graph)
    except Exception as error:
        raise DataError(f"paddle2onnx cannot convert the program: {str(error)[:200]}") from error
    files[ONNX] = graph
    return msgspec.structs.replace(signature, output=outputs.outputs[0].name)


def card_of(imported: Imported, files: Mapping[str, Path]) -> ModelCard:
    """Return the card of a bundle with these files."""
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


def conf_of(imported: Imported, classes: int) -> ModelConf:
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
