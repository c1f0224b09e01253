"""Small models as others write them, made with ONNX's own helpers: of many inputs, lay-outs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "the",
    "film",
    "fine",
    "bad",
    "worst",
    "great",
    "movie",
    "and",
    "of",
    "!",
    ".",
    ",",
    "it",
    "is",
    "was",
    "good",
    "not",
]
ROWS, WIDTH = len(WORDS), 8
FLOAT, INT64, INT32, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.STRING


def numbers(*shape: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.7, shape).astype(np.float32)


def vectors() -> NDArray[np.float32]:
    return numbers(ROWS, WIDTH)


def save(
    path: Path, nodes: list[Any], inputs: list[Any], output: tuple[str, int, list[Any]], **weights: NDArray[Any]
) -> Path:
    """Write a graph that the model checker has passed."""
    made = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*output)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)
    return path


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def tokenizer(folder: Path, longest: int = 0) -> Path:
    """Write a tokenizer.json with [CLS] before and [SEP] behind each text."""
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if longest:
        made.enable_truncation(longest)
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path


def vocabulary(folder: Path) -> Path:
    path = folder / "words.vocab"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path


def mean_of_masked(
    path: Path,
    *,
    classes: int = 3,
    mask: str = "attention_mask",
    kind: int = INT64,
    places: int = 0,
    extra: str = "",
    ids: str = "input_ids",
    length: Any = "length",
) -> Path:
    """The mean of the word vectors under a mask, with vectors of places if asked, and one dense layer: logits."""
    nodes = [node("Gather", f"table {ids}", "found")]
    weights = {
        "table": vectors(),
        "weight": numbers(WIDTH, classes, seed=2),
        "last": np.array([-1], np.int64),
        "one": np.array([1], np.int64),
    }
    inputs = [(ids, INT64, ["batch", length]), (mask, kind, ["batch", length])]
    if places:
        weights |= {"places": numbers(places, WIDTH, seed=3), "axis": np.array(1, np.int64)}
        nodes += [
            node("CumSum", "ones axis", "counted"),
            node("Sub", "counted one", "place"),
            node("Gather", "places place", "placed"),
            node("Add", "found placed", "all"),
        ]
        nodes.insert(0, node("Sub", f"{ids} {ids}", "zeros"))
        nodes.insert(1, node("Add", "zeros one", "ones"))
    vector = "all" if places else "found"
    nodes += [
        node("Cast", mask, "kept", to=FLOAT),
        node("Unsqueeze", "kept last", "wide"),
        node("Mul", f"{vector} wide", "masked"),
        node("ReduceSum", "masked one", "summed", keepdims=0),
        node("ReduceSum", "kept one", "count", keepdims=1),
        node("Div", "summed count", "mean"),
        node("MatMul", "mean weight", "logits"),
    ]
    if extra:
        inputs.append((extra, INT64, ["batch", length]))
        nodes[-1:] = [
            node("Cast", extra, "typed", to=FLOAT),
            node("ReduceSum", "typed one", "types", keepdims=1),
            node("MatMul", "mean weight", "scores"),
            node("Add", "scores types", "logits"),
        ]
    return save(path, nodes, inputs, ("logits", FLOAT, ["batch", classes]), **weights)


def convolutions(path: Path, *, widths: tuple[int, ...] = (2, 3, 4), square: bool = False, classes: int = 2) -> Path:
    """Kim's net: convolutions of several widths without padding, their maxima side by side; needs its words."""
    channels = 5
    nodes = [node("Gather", "table input", "found")]
    weights = {
        "table": vectors(),
        "last": np.array([1], np.int64),
        "weight": numbers(classes, channels * len(widths)),
        "bias": numbers(classes, seed=4),
    }
    nodes.append(
        node("Unsqueeze", "found last", "ready") if square else node("Transpose", "found", "ready", perm=[0, 2, 1])
    )
    for width in widths:
        shape = (channels, 1, width, WIDTH) if square else (channels, WIDTH, width)
        weights |= {f"kernel{width}": numbers(*shape, seed=width), f"shift{width}": numbers(channels, seed=10 + width)}
        nodes += [
            node("Conv", f"ready kernel{width} shift{width}", f"conv{width}"),
            node("Relu", f"conv{width}", f"relu{width}"),
            node("ReduceMax", f"relu{width}", f"max{width}", axes=[2, 3] if square else [2], keepdims=0),
        ]
    nodes += [
        node("Concat", " ".join(f"max{width}" for width in widths), "joined", axis=1),
        node("Gemm", "joined weight bias", "scores", transB=1),
        node("Softmax", "scores", "probs", axis=-1),
    ]
    return save(path, nodes, [("input", INT64, ["n", "l"])], ("probs", FLOAT, ["n", classes]), **weights)


def one_output(path: Path, last: str, *, time_first: bool = False, kind: int = INT64) -> Path:
    """The sum of the word vectors, and one value of it: a logit, or a probability with `last` Sigmoid."""
    axis = 0 if time_first else 1
    weights = {"table": vectors(), "weight": numbers(WIDTH, 1, seed=5), "axis": np.array([axis], np.int64)}
    nodes = [
        node("Gather", "table words", "found"),
        node("ReduceSum", "found axis", "summed", keepdims=0),
        node("MatMul", "summed weight", "score"),
        node(last, "score", "answer"),
    ]
    shape = ["l", "n"] if time_first else ["n", "l"]
    return save(path, nodes, [("words", kind, shape)], ("answer", FLOAT, ["n", 1]), **weights)


def two_inputs(path: Path) -> Path:
    """Two inputs whose names say nothing: ids, and how many they are."""
    weights = {"table": vectors(), "weight": numbers(WIDTH, 2, seed=6), "axis": np.array([1], np.int64)}
    nodes = [
        node("Gather", "table x", "found"),
        node("ReduceSum", "found axis", "summed", keepdims=0),
        node("Cast", "y", "counted", to=FLOAT),
        node("Unsqueeze", "counted axis", "count"),
        node("Div", "summed count", "mean"),
        node("MatMul", "mean weight", "logits"),
    ]
    inputs = [("x", INT64, ["n", "l"]), ("y", INT64, ["n"])]
    return save(path, nodes, inputs, ("logits", FLOAT, ["n", 2]), **weights)


def classes_alone(path: Path) -> Path:
    """A graph whose only output is the number of the likeliest class."""
    weights = {"table": vectors(), "weight": numbers(WIDTH, 3, seed=7), "axis": np.array([1], np.int64)}
    nodes = [
        node("Gather", "table words", "found"),
        node("ReduceSum", "found axis", "summed", keepdims=0),
        node("MatMul", "summed weight", "scores"),
        node("ArgMax", "scores", "class", axis=1, keepdims=0),
    ]
    return save(path, nodes, [("words", INT64, ["n", "l"])], ("class", INT64, ["n"]), **weights)


def named_classes(path: Path, names: list[str], *, mapped: bool) -> Path:
    """The sum of the word vectors; names as scikit-learn's converter writes them, in its two ways.

    A classifier within has numbers for its classes, as a calibrated one has.
    """
    weights = {
        "table": vectors(),
        "weight": numbers(WIDTH, len(names), seed=8),
        "axis": np.array([1], np.int64),
        "within": np.arange(len(names)),
    }
    nodes = [
        node("Gather", "table words", "found"),
        node("ReduceSum", "found axis", "summed", keepdims=0),
        node("MatMul", "summed weight", "scores"),
        node("Softmax", "scores", "probabilities", axis=1),
        node("ArgMax", "scores", "likeliest", axis=1, keepdims=0),
        helper.make_node("ArrayFeatureExtractor", ["within", "likeliest"], ["number"], domain="ai.onnx.ml"),
    ]
    inputs = [helper.make_tensor_value_info("words", INT64, ["n", "l"])]
    if mapped:
        nodes.append(
            helper.make_node("ZipMap", ["probabilities"], ["named"], domain="ai.onnx.ml", classlabels_strings=names)
        )
        kind = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
        outputs = [helper.make_value_info("named", helper.make_sequence_type_proto(kind))]
    else:
        nodes.append(helper.make_node("ArrayFeatureExtractor", ["names", "likeliest"], ["label"], domain="ai.onnx.ml"))
        outputs = [
            helper.make_tensor_value_info("label", STRING, [1, "n"]),
            helper.make_tensor_value_info("probabilities", FLOAT, ["n", len(names)]),
        ]
    made = helper.make_graph(nodes, "named", inputs, outputs)
    made.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    if not mapped:
        made.initializer.append(helper.make_tensor("names", STRING, [len(names)], [one.encode() for one in names]))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save_model(helper.make_model(made, opset_imports=opsets, ir_version=8), path)
    return path
