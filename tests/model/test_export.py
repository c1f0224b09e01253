"""Nets as ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from imdb_serving.model.bundle import open_bundle
from imdb_serving.model.export import IR_VERSION, OPSET
from imdb_serving.model.nets import NETS


@pytest.mark.parametrize("net", sorted(NETS))
def test_a_graph_takes_one_review_of_any_length_and_an_old_runtime_reads_it(
    net: str, bundle_of: Callable[[str], Path]
) -> None:
    model = onnx.load_model(open_bundle(bundle_of(net)).graph)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (IR_VERSION, OPSET)
    ((words,), (prediction,)) = (model.graph.input, model.graph.output)
    assert (words.name, prediction.name) == ("words", "prediction")
    assert [axis.dim_value for axis in words.type.tensor_type.shape.dim] == [1, 0]
    assert [axis.dim_value for axis in prediction.type.tensor_type.shape.dim] == [1, 2]


def test_the_weights_keep_their_names_and_the_padding_words_vector_is_zero(bundle: Path) -> None:
    opened = open_bundle(bundle)
    initializers = onnx.load_model(opened.graph).graph.initializer
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in initializers}
    assert set(weights) == {
        "embedding.weight", "convolution.weight", "convolution.bias",
        "second.weight", "second.bias", "out.weight", "out.bias",
    }  # fmt: skip
    assert weights["embedding.weight"].shape == (opened.card.vocabulary + 2, 128)
    assert not weights["embedding.weight"][opened.card.pad_id].any()
    assert np.abs(weights["embedding.weight"][0]).max() > 0
