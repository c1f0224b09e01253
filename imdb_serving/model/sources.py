"""A model's files as somebody else wrote them: which there are, and what lies beside them.

ONNX files, Paddle inference models of any version, and Paddle Serving's folders. Files are parsed, never executed or
unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imdb_serving.errors import BundleError
from imdb_serving.model import SERVER_CONF, SERVER_DIR
from imdb_serving.model.conf import ModelConf, load_conf
from imdb_serving.model.graphs import weights_beside

PICKLES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".joblib", ".pdparams", ".pdopt", ".ckpt"})
OTHERS = frozenset({".safetensors", ".h5", ".keras", ".tflite", ".gguf", ".pb"})
PROGRAMS = ("inference.json", "*.json", "*.pdmodel", "__model__")
COMBINED = ("*.pdiparams", "__params__", "params", "*.params")


@dataclass(frozen=True, slots=True)
class Source:
    """The files of a model: an ONNX graph, or a Paddle program with its weights, in one file or in many.

    `beside` are the graph's files of weights. `folder` is where tokenizer and labels may be.
    """

    path: Path
    folder: Path
    graph: Path | None = None
    program: Path | None = None
    weights: tuple[Path, ...] = ()
    beside: tuple[Path, ...] = ()
    conf: ModelConf | None = None

    @property
    def files(self) -> list[Path]:
        """All files, the graph or program first."""
        return [path for path in (self.graph, self.program, *self.weights, *self.beside) if path]


def find_source(path: Path) -> Source:
    """Return the files of the model at a path; raise `BundleError` saying what is there instead."""
    if not path.exists():
        raise BundleError(f"there is no model at {path}")
    if path.is_file():
        return _of_file(path)
    folder = path / SERVER_DIR if (path / SERVER_DIR).is_dir() else path
    program = _program_in(folder)
    if program is not None:
        return _of_program(path, program)
    graphs = sorted(folder.glob("*.onnx"))
    if len(graphs) == 1:
        return _of_graph(path, graphs[0])
    if graphs:
        raise BundleError(f"{folder} holds {len(graphs)} ONNX files; name one: {', '.join(one.name for one in graphs)}")
    raise _none_in(folder)


def _of_file(path: Path) -> Source:
    if path.suffix == ".onnx":
        return _of_graph(path, path)
    if path.suffix in {".json", ".pdmodel"} or path.name == "__model__":
        return _of_program(path, path)
    if path.suffix == ".pdiparams" or path.name == "__params__":
        return find_source(path.parent)
    if path.suffix in PICKLES:
        raise BundleError(f"{path} is a pickle, or may be one, and is not read here; export the model as ONNX")
    raise BundleError(f"{path} is no model that is read here: an ONNX file, or a Paddle inference model")


def _none_in(folder: Path) -> BundleError:
    there = sorted(one.name for one in folder.iterdir())
    odd = [name for name in there if Path(name).suffix in PICKLES | OTHERS]
    what = f"it has {', '.join(odd[:5])}" if odd else f"it has {', '.join(there[:8])}" if there else "it is empty"
    return BundleError(
        f"{folder} holds no model that is read here ({what}); expected an ONNX file, or a Paddle program"
    )


def _program_in(folder: Path) -> Path | None:
    for pattern in PROGRAMS:
        for found in sorted(folder.glob(pattern)):
            if found.suffix != ".json" or _is_program(found):
                return found
    return None


def _is_program(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b'"pir"' in file.read(256)
    except OSError:
        return False


def _of_program(path: Path, program: Path) -> Source:
    folder = program.parent
    if program.suffix == ".json" and not _is_program(program):
        raise BundleError(f"{program} is no Paddle program")
    same = program.with_suffix(".pdiparams")
    named = [same] if same.is_file() else [one for pattern in COMBINED for one in sorted(folder.glob(pattern))]
    weights = tuple(named[:1]) or _loose_weights(folder, program)
    if not weights:
        raise BundleError(f"{folder} has the program {program.name} and no weights beside it ({same.name})")
    conf = folder / SERVER_CONF
    return Source(path, folder, program=program, weights=weights, conf=load_conf(conf) if conf.is_file() else None)


def _loose_weights(folder: Path, program: Path) -> tuple[Path, ...]:
    """Return weights in a file each, as Paddle 1 writes them, in the order of one file that has them all."""
    others = {".json", ".txt", ".vocab", ".prototxt", ".md"}
    found = [one for one in folder.iterdir() if one.is_file() and one != program and one.suffix not in others]
    return tuple(sorted(found, key=lambda one: one.name))


def _of_graph(path: Path, graph: Path) -> Source:
    return Source(path, graph.parent, graph=graph, beside=tuple(weights_beside(graph)))


def labels_beside(folder: Path) -> tuple[str, ...]:
    """Return the classes' names in a `config.json` as Hugging Face writes it beside a model, if there is one."""
    try:
        names = json.loads((folder / "config.json").read_bytes())["id2label"]
        return tuple(str(names[str(number)]) for number in range(len(names)))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ()


def join_weights(parts: Sequence[Path], to: Path) -> None:
    """Write weights to one file; several are put behind one another, in which order Paddle reads them."""
    with to.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
