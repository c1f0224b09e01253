"""The Open Inference Protocol v2: what is sent is what the specification says, and what comes is read or refused."""

from __future__ import annotations

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.errors import ConfigError, UnexpectedAnswer
from imdb_serving.foreign.oip import TensorInfo, Text, decode, encode_binary, encode_json, fill, inputs_of

SAMPLES = [Text("gut, ☃", [5, 6, 7], 1), Text("bad", [8], 0)]
IDS = TensorInfo("input_ids", "INT64", [-1, -1])


def test_metadata_says_which_inputs_there_are() -> None:
    body = b'{"name": "m", "inputs": [{"name": "a", "datatype": "BYTES", "shape": ["-1", 1]}], "outputs": []}'
    assert inputs_of(body) == [TensorInfo("a", "BYTES", [-1, 1])]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"inputs": [{}]}', b'{"inputs": 3}', b"\xff"])
def test_what_is_no_metadata_is_refused(body: bytes) -> None:
    with pytest.raises(UnexpectedAnswer, match="metadata"):
        inputs_of(body)


def test_inputs_are_filled_by_their_type_and_name() -> None:
    names = ["input_ids", "attention_mask", "token_type_ids", "lengths", "label"]
    found = {one.name: one for one in fill([TensorInfo(name, "INT32", [-1, -1]) for name in names], SAMPLES)}
    values = {name: np.asarray(one.values).tolist() for name, one in found.items()}
    assert values == {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "token_type_ids": [[0, 0, 0], [0, 0, 0]],
        "lengths": [[3], [1]],
        "label": [[1], [0]],
    }
    (texts,) = fill([TensorInfo("text", "BYTES", [-1, 1])], SAMPLES)
    assert (texts.shape, texts.values) == ([2, 1], ["gut, ☃", "bad"])


def test_a_model_without_batches_gets_one_row() -> None:
    (one,) = fill([TensorInfo("words", "INT64", [-1])], SAMPLES[:1])
    assert one.shape == [3]


def test_a_type_that_the_protocol_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown type FP8"):
        fill([TensorInfo("words", "FP8", [-1])], SAMPLES)


def test_bodies_are_as_the_specification_has_them() -> None:
    tensors = fill([IDS, TensorInfo("text", "BYTES", [-1])], SAMPLES)
    assert json.loads(encode_json(tensors)) == {
        "inputs": [
            {"name": "input_ids", "datatype": "INT64", "shape": [2, 3], "data": [5, 6, 7, 8, 0, 0]},
            {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["gut, ☃", "bad"]},
        ]
    }
    body, length = encode_binary(tensors)
    head = json.loads(body[:length])
    text = "gut, ☃".encode()
    assert [one["parameters"]["binary_data_size"] for one in head["inputs"]] == [48, 8 + len(text) + 3]
    assert head["parameters"] == {"binary_data_output": True}
    assert body[length : length + 48] == struct.pack("<6q", 5, 6, 7, 8, 0, 0)
    assert body[length + 48 :] == struct.pack("<I", len(text)) + text + struct.pack("<I", 3) + b"bad"


def answer(values: list[float], texts: list[str]) -> tuple[bytes, int]:
    numbers = np.array(values, "<f4").tobytes()
    words = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    outputs = [
        {"name": "p", "datatype": "FP32", "shape": [len(values)], "parameters": {"binary_data_size": len(numbers)}},
        {"name": "t", "datatype": "BYTES", "shape": [len(texts)], "parameters": {"binary_data_size": len(words)}},
        {"name": "j", "datatype": "INT64", "shape": [1], "data": [3]},
    ]
    head = json.dumps({"outputs": outputs}).encode()
    return head + numbers + words, len(head)


def test_a_binary_answer_is_read_as_its_json_would_be() -> None:
    body, length = answer([0.25, 0.75], ["neg", "☃"])
    assert [output["data"] for output in decode(body, str(length))["outputs"]] == [[0.25, 0.75], ["neg", "☃"], [3]]
    assert decode(b'{"outputs": []}', "") == {"outputs": []}


@given(st.binary(max_size=60), st.integers(-5, 400), st.integers(0, 300))
def test_whatever_comes_is_read_or_refused(junk: bytes, length: int, place: int) -> None:
    body, right = answer([0.5], ["neg"])
    changed = body[:place] + junk + body[place:]
    for given_body, given_length in ((changed, str(right)), (body, str(length)), (junk, "3")):
        with suppress(UnexpectedAnswer):
            decode(given_body, given_length)
