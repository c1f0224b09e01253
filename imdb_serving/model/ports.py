"""What the graphs and programs of others are fed and give, by name, type and shape. Nothing in them is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from imdb_serving.errors import BundleError
from imdb_serving.model.graphs import load_graph

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
    import onnx  # noqa: PLC0415 - takes a tenth of a second

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
