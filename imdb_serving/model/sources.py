"""A model's files as somebody else wrote them: which there are, and what their graphs are fed and give.

ONNX files, Paddle inference models of any version, and Paddle Serving's folders. Files are parsed, never executed or
unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from imdb_serving.errors import BundleError
from imdb_serving.model import SERVER_CONF, SERVER_DIR
from imdb_serving.model.conf import ModelConf, load_conf

PICKLES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".joblib", ".pdparams", ".pdopt", ".ckpt"})
OTHERS = frozenset({".safetensors", ".h5", ".keras", ".tflite", ".gguf", ".pb"})
PROGRAMS = ("inference.json", "*.json", "*.pdmodel", "__model__")
COMBINED = ("*.pdiparams", "__params__", "params", "*.params")
MOST_GRAPH_BYTES = 2 << 30
"""What protobuf reads at most, and so an ONNX file without its weights."""

KNOWN_DOMAINS = {"ai.onnx", "", "ai.onnx.ml", "com.microsoft"}
"""Sets of operations that ONNX Runtime has."""


class Port(msgspec.Struct, frozen=True):
    """An input or output of a graph: `shape` has 0 for an extent that is open, and None where nothing is known.

    `kind` is a type of numpy's, `string`, or `maps` for a list of maps from class to probability. `made_by` is the
    operation that an output comes from.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None = None
    ragged: bool = False
    made_by: str = ""


class Ports(msgspec.Struct, frozen=True):
    """What a graph is fed and gives."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


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
    return Source(path, graph.parent, graph=graph, beside=tuple(_external(graph)))


def load_graph(path: Path) -> Any:
    """Return an ONNX graph without weights that lie in other files; raise `BundleError` for what is none."""
    import onnx  # noqa: PLC0415 - as in `bundle`

    try:
        if path.stat().st_size >= MOST_GRAPH_BYTES:
            raise BundleError(f"{path} has more than 2 GiB; keep its weights in a file beside it")
        return onnx.load_model(path, load_external_data=False)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    except BundleError:
        raise
    except Exception as error:  # protobuf's errors have no common base but this
        raise BundleError(f"{path} is no ONNX file: {error}") from error


def _external(graph: Path) -> list[Path]:
    """Return the files beside a graph that hold its weights; raise `BundleError` for one that lies elsewhere."""
    names = set()
    for one in load_graph(graph).graph.initializer:
        names |= {entry.value for entry in one.external_data if entry.key == "location"}
    found = []
    for name in sorted(names):
        if Path(name).name != name or name.startswith("."):
            raise BundleError(f"{graph} has weights in {name!r}; they must lie beside it")
        if not (graph.parent / name).is_file():
            raise BundleError(f"{graph} has weights in {name}, which is not beside it")
        found.append(graph.parent / name)
    return found


def graph_ports(path: Path) -> Ports:
    """Return what an ONNX graph is fed and gives; raise `BundleError` where that cannot be told."""
    model = load_graph(path)
    graph = model.graph
    strange = sorted({one.domain for one in model.opset_import} - KNOWN_DOMAINS)
    if strange:
        raise BundleError(f"{path} has operations of {', '.join(strange)}, which ONNX Runtime has not")
    weights = {one.name for one in graph.initializer}
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    inputs = tuple(_graph_port(one) for one in graph.input if one.name not in weights)
    outputs = tuple(_graph_port(one, made_by.get(one.name, "")) for one in graph.output)
    if not inputs or not outputs:
        raise BundleError(f"{path} has no input or no output")
    return Ports(inputs, outputs)


def _graph_port(value: Any, made_by: str = "") -> Port:
    import onnx  # noqa: PLC0415 - as in `bundle`

    kind = value.type.WhichOneof("value")
    if kind == "sequence_type":
        return Port(value.name, "maps" if value.type.sequence_type.elem_type.HasField("map_type") else "", None)
    if kind != "tensor_type":
        return Port(value.name, "")
    tensor = value.type.tensor_type
    shape = tuple(one.dim_value for one in tensor.shape.dim) if tensor.HasField("shape") else None
    numeric = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    text = tensor.elem_type == onnx.TensorProto.STRING
    return Port(value.name, "string" if text else numeric.name, shape, made_by=made_by)


def program_ports(path: Path) -> Ports:
    """Return what a Paddle program is fed and gives; raise `BundleError` where that cannot be told."""
    try:
        return _pir_ports(path) if path.suffix == ".json" else _old_ports(path)
    except BundleError:
        raise
    except Exception as error:  # what the libraries make of garbage
        raise BundleError(f"{path} is no Paddle program that can be read: {type(error).__name__}: {error}") from error


def _pir_ports(path: Path) -> Ports:
    content = json.loads(path.read_bytes())
    blocks = [block for region in content["program"]["regions"] for block in region["blocks"]]
    operations = [operation for block in blocks for operation in block["ops"]]
    made_by = {out["%"]: one["#"] for one in operations if isinstance(one["O"], list) for out in one["O"]}
    inputs, outputs = [], []
    for one in operations:
        if one["#"] not in {"1.data", "1.feed", "1.fetch"}:
            continue
        told = {entry["N"]: entry["AT"]["D"] for entry in one["A"]}
        kind, extents = one["O"][0]["TT"]["D"][:2]
        port = Port(told["name"], _PIR_KINDS.get(kind["#"], ""), tuple(max(0, extent) for extent in extents))
        if one["#"] == "1.fetch":
            maker = made_by.get(one["I"][0]["%"], "").partition(".")[2]
            outputs.append(msgspec.structs.replace(port, made_by=maker))
        else:
            inputs.append(port)
    return Ports(tuple(inputs), tuple(outputs))


_PIR_KINDS = {"0.t_i64": "int64", "0.t_i32": "int32", "0.t_f32": "float32", "0.t_f64": "float64", "0.t_bool": "bool"}


def _old_ports(path: Path) -> Ports:
    from imdb_serving.model.nets import framework  # noqa: PLC0415 - Paddle's own description of its programs

    program = framework.ProgramDesc()
    program.ParseFromString(path.read_bytes())
    block = program.blocks[0]
    variables = {one.name: one for one in block.vars}
    makes = [one for one in block.ops if one.type != "fetch"]
    makers = {name: one.type for one in makes for out in one.outputs for name in out.arguments}
    fed = [one.outputs[0].arguments[0] for one in block.ops if one.type == "feed"]
    fetched = [one.inputs[0].arguments[0] for one in block.ops if one.type == "fetch"]
    return Ports(
        tuple(_old_port(variables[name]) for name in fed),
        tuple(_old_port(variables[name], makers.get(name, "")) for name in fetched),
    )


def _old_port(variable: Any, made_by: str = "") -> Port:
    from imdb_serving.model.nets import framework  # noqa: PLC0415

    lod = variable.type.dense_tensor if hasattr(variable.type, "dense_tensor") else variable.type.lod_tensor
    level = getattr(lod, "legacy_lod_level", 0) or getattr(lod, "lod_level", 0)
    kind = framework.VarType.Type.Name(lod.tensor.data_type)
    kinds = {"INT64": "int64", "INT32": "int32", "FP32": "float32", "FP64": "float64", "BOOL": "bool"}
    shape = tuple(max(0, extent) for extent in lod.tensor.dims)
    return Port(variable.name, kinds.get(kind, ""), shape, level > 0, made_by)


def labels_beside(folder: Path) -> tuple[str, ...]:
    """Return the classes' names in a `config.json` as Hugging Face writes it beside a model, if there is one."""
    try:
        names = json.loads((folder / "config.json").read_bytes())["id2label"]
        return tuple(str(names[str(number)]) for number in range(len(names)))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ()


def labels_in_graph(path: Path) -> tuple[str, ...]:
    """Return the classes' names that a classifier of scikit-learn has in its ONNX graph, if there is one."""
    for node in load_graph(path).graph.node:
        for one in node.attribute:
            if one.name in {"classlabels_strings", "classes_strings", "classlabels_ints", "classlabels_int64s"}:
                texts = tuple(text.decode("utf-8", "replace") for text in one.strings)
                return texts or tuple(map(str, one.ints))
    return ()


PLAIN_LOCALE = "C.UTF-8"


def name_locale(graph: Path, to: Path) -> bool:
    """Write an ONNX graph whose texts are lower-cased by the rules of Unicode; tell whether it has such operations.

    Left open, their locale is American English, which small machines and images do not have.
    """
    import onnx  # noqa: PLC0415 - as in `bundle`

    model = load_graph(graph)
    found = [node for node in model.graph.node if node.op_type == "StringNormalizer"]
    for node in found:
        kept = [one for one in node.attribute if one.name != "locale"]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("locale", PLAIN_LOCALE)])
    to.write_bytes(model.SerializeToString())
    return bool(found)


def join_weights(parts: Sequence[Path], to: Path) -> None:
    """Write weights to one file; several are put behind one another, in which order Paddle reads them."""
    with to.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
