"""Recognises in an ONNX graph what the engine `folded` computes, and folds its weights.

That is word vectors, convolutions of any widths over them, the maximum over the places of each, and dense layers. Where
things lie in between is not looked at: whoever recognises a graph compares its answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imdb_serving.errors import ConfigError
from imdb_serving.model.signature import Signature

Floats = NDArray[np.float32]

ACTIVATIONS = {"": 0, "Relu": 1, "Tanh": 2, "Sigmoid": 3, "Softmax": 4}
MONOTONE = frozenset({"Relu", "Tanh", "Sigmoid"})
"""What may be computed behind a maximum instead of before it."""

LAYOUT = frozenset({
    "Identity", "Cast", "Transpose", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Dropout",
})  # fmt: skip
MOST_BYTES = 1 << 30


class Branch(NamedTuple):
    """A convolution and its maximum: a table [words, channels] for each place of its window, stacked."""

    tables: Floats
    bias: Floats
    left: int
    right: int
    activation: int


class Layer(NamedTuple):
    """A dense layer, weight [in, out], and what follows it."""

    weight: Floats
    bias: Floats
    activation: int


class Folded(NamedTuple):
    """A whole graph: the branches, whose maxima stand side by side, what follows these, and the dense layers."""

    branches: tuple[Branch, ...]
    activation: int
    layers: tuple[Layer, ...]


class NotFoldable(ConfigError):
    """Why a graph is not one that can be folded."""


def fold(path: Path, signature: Signature) -> Folded:
    """Return a graph's folded weights; raise `NotFoldable` with the reason where it has anything else."""
    return _Walk(path, signature).fold()


class _Walk:
    """A graph on the way from its ids to its output."""

    def __init__(self, path: Path, signature: Signature) -> None:
        import onnx  # noqa: PLC0415 - only models need it
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

        self._onnx, self._evaluator, self._signature = onnx, ReferenceEvaluator, signature
        self._model = onnx.load_model(path)
        nodes = self._model.graph.node
        self._makers = {name: node for node in nodes for name in node.output}
        self._constants = {one.name: onnx.numpy_helper.to_array(one) for one in self._model.graph.initializer}
        self._others = {one.name for one in signature.inputs} - {signature.main.name}

    def fold(self) -> Folded:
        name, vectors = self._vectors()
        ends = [self._branch(node, scaled) for node, scaled in self._convolutions(name, vectors)]
        if not ends:
            raise NotFoldable("nothing reads its word vectors")
        size = sum(branch.tables.nbytes for _, branch in ends)
        if size > MOST_BYTES:
            raise NotFoldable(f"its tables would take {size >> 20:,} MiB")
        if len(ends) == 1:
            ((end, branch),) = ends
            return Folded((branch,), *self._layers(end))
        led = [self._led(*end) for end in ends]
        if len({node.name or node.output[0] for node, _, _ in led}) != 1:
            raise NotFoldable("its convolutions do not come together")
        join = led[0][0]
        order = {name: branch for _, name, branch in led}
        return Folded(tuple(order[name] for name in join.input), *self._layers(join.output[0]))

    def _led(self, name: str, branch: Branch) -> tuple[Any, str, Branch]:
        """Follow a branch's maximum to where branches are put side by side."""
        while (node := self._only(name, "a maximum")).op_type != "Concat":
            if node.op_type in MONOTONE and not branch.activation:
                branch = branch._replace(activation=ACTIVATIONS[node.op_type])
            elif node.op_type not in LAYOUT:
                raise NotFoldable(f"a maximum goes through {node.op_type}")
            name = node.output[0]
        return node, name, branch

    def _consumers(self, name: str) -> list[Any]:
        return [node for node in self._model.graph.node if name in node.input]

    def _only(self, name: str, what: str) -> Any:
        nodes = [node for node in self._consumers(name) if node.op_type != "Shape"]
        if len(nodes) != 1:
            raise NotFoldable(f"{what} goes to {len(nodes)} places")
        return nodes[0]

    def _constant(self, name: str) -> NDArray[Any] | None:
        """Return the value of what does not depend on the inputs, else None."""
        if name in self._constants or name not in self._makers:
            return self._constants.get(name)
        node = self._makers[name]
        values = {one: self._constant(one) for one in node.input if one}
        if any(value is None for value in values.values()):
            return None
        helper = self._onnx.helper
        empty = [helper.make_value_info(one, self._onnx.TypeProto()) for one in values]
        graph = helper.make_graph([node], "one", empty, [helper.make_value_info(name, self._onnx.TypeProto())])
        alone = helper.make_model(graph, opset_imports=self._model.opset_import)
        (found,) = self._evaluator(alone).run([name], values)
        self._constants[name] = np.asarray(found)
        return self._constants[name]

    def _attributes(self, node: Any) -> Mapping[str, Any]:
        return {one.name: self._onnx.helper.get_attribute_value(one) for one in node.attribute}

    def _vectors(self) -> tuple[str, Floats]:
        """Return the name of the looked-up word vectors, and the table that they are looked up in."""
        name = self._signature.main.name
        while True:
            nodes = [node for node in self._consumers(name) if node.op_type not in {"Shape", "Equal"}]
            if len(nodes) != 1:
                raise NotFoldable(f"its ids go to {len(nodes)} places")
            node = nodes[0]
            if node.op_type == "Gather":
                table = self._constant(node.input[0])
                if table is None or table.ndim != 2 or node.input[1] != name:
                    raise NotFoldable("its ids are not looked up in a table of word vectors")
                return node.output[0], np.asarray(table, np.float32)
            if node.op_type not in LAYOUT:
                raise NotFoldable(f"its ids go through {node.op_type}")
            name = node.output[0]

    def _convolutions(self, name: str, vectors: Floats) -> Iterator[tuple[Any, Floats]]:
        """Yield the convolutions that word vectors come to, and the vectors as they are then."""
        for node in self._consumers(name):
            if node.op_type == "Conv":
                yield node, vectors
            elif node.op_type == "Mul":
                yield from self._convolutions(node.output[0], vectors * self._scale(node, name))
            elif node.op_type in LAYOUT:
                yield from self._convolutions(node.output[0], vectors)
            elif node.op_type != "Shape":
                raise NotFoldable(f"its word vectors go through {node.op_type}, and no convolution")

    def _branch(self, node: Any, vectors: Floats) -> tuple[str, Branch]:
        """Follow a convolution to the maximum; return where that ends, and the branch."""
        window, left, right = self._window(node, vectors.shape[1])
        bias = np.zeros(window.shape[-1], np.float32)
        given = self._constant(node.input[2]) if len(node.input) > 2 else None
        if given is not None:
            bias = bias + given.reshape(-1)
        end, more, activation = self._to_maximum(node.output[0], len(bias))
        tables = np.stack([vectors @ place for place in window]).astype(np.float32)
        return end, Branch(tables, (bias + more).astype(np.float32), left, right, activation)

    def _scale(self, node: Any, name: str) -> Any:
        other = self._constant(node.input[1] if node.input[0] == name else node.input[0])
        if other is None or other.size != 1:
            raise NotFoldable("its word vectors are multiplied by other values")
        return other.reshape(())

    def _window(self, node: Any, width: int) -> tuple[Floats, int, int]:
        """Return a convolution's weights [places, width, channels], and its padding before and behind."""
        weight, told = self._constant(node.input[1]), self._attributes(node)
        if weight is None or told.get("group", 1) != 1 or {*told.get("strides", []), *told.get("dilations", [])} - {1}:
            raise NotFoldable("its convolution has strides, dilations or groups")
        pads = [int(pad) for pad in told.get("pads", [0] * 2 * (weight.ndim - 2))]
        half = len(pads) // 2
        if weight.ndim == 4 and weight.shape[1] == 1 and weight.shape[3] == width:
            weight, sides = weight[:, 0].transpose(1, 2, 0), [(pads[0], pads[half])]
        elif weight.shape[1] == width:
            sides = [(pads[axis], pads[half + axis]) for axis in range(half) if weight.shape[2 + axis] > 1] or [(0, 0)]
            weight = weight.reshape(len(weight), width, -1).transpose(2, 1, 0)
        else:
            raise NotFoldable(f"its convolution's weights {list(weight.shape)} do not fit word vectors of {width}")
        if told.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"} or len(sides) != 1:
            raise NotFoldable("its convolution goes over more than one axis, or pads by itself")
        return np.asarray(weight, np.float32), *sides[0]

    def _to_maximum(self, name: str, channels: int) -> tuple[str, Any, int]:
        """Follow a convolution to the maximum over its places; return where that ends, the bias, the activation."""
        bias: Any = 0.0
        activation = ""
        while True:
            node = self._only(name, "a convolution")
            if node.op_type == "Add":
                added = self._constant(node.input[1] if node.input[0] == name else node.input[0])
                if added is not None and activation:
                    raise NotFoldable("values are added behind its activation")
                if added is not None:
                    bias = bias + np.broadcast_to(added.reshape(-1), (channels,))
                elif not self._is_mask(node, name):
                    raise NotFoldable("other values are added to its convolution")
            elif node.op_type in MONOTONE and not activation:
                activation = node.op_type
            elif node.op_type in {"GlobalMaxPool", "ReduceMax"}:
                return node.output[0], bias, ACTIVATIONS[activation]
            elif node.op_type not in LAYOUT:
                raise NotFoldable(f"its convolution goes through {node.op_type} and not to a maximum")
            name = node.output[0]

    def _is_mask(self, node: Any, name: str) -> bool:
        """Tell whether what is added comes from the mask alone, which adds nothing where there is no padding."""
        left = [one for one in node.input if one != name]
        while left:
            one = left.pop()
            if one in self._others or self._constant(one) is not None:
                continue
            if one not in self._makers or one == self._signature.main.name:
                return False
            left += self._makers[one].input
        return True

    def _layers(self, name: str) -> tuple[int, tuple[Layer, ...]]:
        """Follow what is behind the maxima to the output; return what follows them, and the dense layers."""
        first, layers = 0, list[Layer]()
        while name != self._signature.output:
            node = self._only(name, "a layer")
            for kind, value in self._steps(node, name):
                if kind == "weight":
                    layers.append(Layer(value, np.zeros(value.shape[1], np.float32), 0))
                elif not layers:
                    first = self._activation(kind, first)
                elif kind == "bias":
                    if layers[-1].activation:
                        raise NotFoldable("values are added behind an activation")
                    layers[-1] = layers[-1]._replace(bias=layers[-1].bias + value)
                else:
                    layers[-1] = layers[-1]._replace(activation=self._activation(kind, layers[-1].activation))
            name = node.output[0]
        if not layers:
            raise NotFoldable("it has no dense layer")
        return first, tuple(layers)

    def _activation(self, kind: str, there: int) -> int:
        if there or kind not in ACTIVATIONS:
            raise NotFoldable(f"{kind} is not where the kernel has it")
        return ACTIVATIONS[kind]

    def _steps(self, node: Any, name: str) -> Iterator[tuple[str, Any]]:
        """Yield what a node of the dense part does: a weight, a bias, an activation, or nothing."""
        others = [self._constant(one) for one in node.input if one != name]
        told = self._attributes(node)
        if node.op_type == "MatMul" and others[0] is not None and node.input[0] == name:
            yield "weight", np.ascontiguousarray(others[0], np.float32)
        elif node.op_type == "Gemm" and node.input[0] == name and others[0] is not None:
            weight = others[0].T if told.get("transB") else others[0]
            yield "weight", np.ascontiguousarray(weight * told.get("alpha", 1.0), np.float32)
            if len(others) > 1 and others[1] is not None:
                yield "bias", np.float32(told.get("beta", 1.0)) * others[1].reshape(-1).astype(np.float32)
        elif node.op_type == "Add" and others and others[0] is not None:
            yield "bias", others[0].reshape(-1).astype(np.float32)
        elif node.op_type in ACTIVATIONS:
            yield node.op_type, None
        elif node.op_type not in LAYOUT:
            raise NotFoldable(f"it has a layer {node.op_type}")
