"""A trained net as an ONNX graph: one review in, its probabilities out. It needs the weights, and no Paddle.

The graph maps `words` [1, L] int64, without padding and so without a mask, to `prediction` [1, 2] float32. Weights keep
the names they have in the net. Written by hand, because these nets are a dozen nodes each, and a converter would tie
training to the framework versions that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Values = NDArray[np.generic]
Weights = Mapping[str, Values]

# Old enough for every ONNX Runtime that the project allows.
OPSET, IR_VERSION = 17, 8
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
"""Paddle's gates (lstm: i f c o, gru: r z c) in ONNX's order (lstm: i o f c, gru: z r h)."""


class _Graph:
    """Nodes one after another, each working on what the last one made."""

    def __init__(self, weights: Weights) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights = dict(weights)
        self.last = "words"

    def then(self, kind: str, *others: str, first: str = "", outputs: int = 1, **attributes: Any) -> None:
        """Append a node whose input is the last output, behind `first` if given, and before `others`."""
        names = [f"{kind.lower()}_{len(self.nodes)}_{number}" for number in range(outputs)]
        inputs = [first, self.last] if first else [self.last]
        self.nodes.append(helper.make_node(kind, [*inputs, *others], names, **attributes))
        self.last = names[0]

    def linear(self, layer: str) -> None:
        self.then("Gemm", f"{layer}.weight", f"{layer}.bias")

    def dense(self, *layers: str, tanh: bool) -> None:
        """Append linear layers, each with a tanh behind it if asked, then the last layer and the softmax."""
        for layer in layers:
            self.linear(layer)
            if tanh:
                self.then("Tanh")
        self.linear("out")
        self.then("Softmax", axis=-1)

    def convolution(self) -> None:
        """Append a convolution over the words of `[1, L, E]`, and the maximum over its places.

        As over an image of one row: ONNX Runtime has its fastest convolutions and maxima for images only (measured in
        docs/performance.md). Both ways give the same within 4e-7.
        """
        width = self.weights["convolution.weight"].shape[-1]
        self.nodes.append(helper.make_node("Constant", [], ["row"], value_ints=[2]))
        self.nodes.append(helper.make_node("Unsqueeze", ["convolution.weight", "row"], ["kernel"]))
        self.then("Transpose", perm=[0, 2, 1])
        self.then("Unsqueeze", "row")
        self.then("Conv", "kernel", "convolution.bias", pads=[0, width // 2] * 2)
        self.then("GlobalMaxPool")
        self.then("Flatten", axis=1)

    def recurrent(self, kind: str) -> None:
        """Append a recurrent layer over `[1, L, E]`, and the maximum over its steps."""
        parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        inputs, states, *biases = (_reorder(self.weights[f"recurrent.{part}_l0"], GATES[kind]) for part in parts)
        self.weights["recurrent.W"] = inputs[None]
        self.weights["recurrent.R"] = states[None]
        self.weights["recurrent.B"] = np.concatenate(biases)[None]
        hidden = self.weights["recurrent.R"].shape[-1]
        # Paddle's GRU, like cuDNN's, resets behind the linear layer.
        reset: dict[str, Any] = {"linear_before_reset": 1} if kind == "gru" else {}
        self.then("Transpose", perm=[1, 0, 2])
        self.then(kind.upper(), "recurrent.W", "recurrent.R", "recurrent.B", hidden_size=hidden, **reset)
        self.then("ReduceMax", axes=[0, 1], keepdims=0)


def _reorder(values: Values, gates: tuple[int, ...]) -> Values:
    parts = np.split(values, len(gates))
    return np.concatenate([parts[gate] for gate in gates])


def _body(net: str, graph: _Graph) -> None:
    graph.then("Gather", first="embedding.weight")
    if net == "bow":
        graph.weights["axes"] = np.array([1], dtype=np.int64)
        graph.then("ReduceSum", "axes", keepdims=0)
        graph.then("Tanh")
        graph.dense("first", "second", tanh=True)
    elif net == "cnn":
        graph.convolution()
        graph.then("Tanh")
        graph.dense("second", tanh=False)
    else:
        graph.recurrent(net)
        graph.then("Tanh")
        graph.dense("second", tanh=True)


def to_onnx(net: str, weights: Weights) -> onnx.ModelProto:
    """Return the graph of a published net with these weights; the model checker has passed it."""
    graph = _Graph(weights)
    _body(net, graph)
    graph.nodes[-1].output[0] = "prediction"
    used = {name for node in graph.nodes for name in node.input}
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            net,
            [helper.make_tensor_value_info("words", onnx.TensorProto.INT64, [1, "length"])],
            [helper.make_tensor_value_info("prediction", onnx.TensorProto.FLOAT, [1, 2])],
            [
                numpy_helper.from_array(np.ascontiguousarray(value), name)
                for name, value in graph.weights.items()
                if name in used
            ],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="imdb-serving",
    )
    onnx.checker.check_model(model)
    return model
