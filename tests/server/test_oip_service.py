"""The Open Inference Protocol v2 at our HTTP service, asked by Triton's own client and by hand."""

from __future__ import annotations

import json
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import http_kit as http
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.errors import BadRequest
from imdb_serving.foreign import oip as clients
from imdb_serving.messages import Reply
from imdb_serving.model.bundle import open_bundle
from imdb_serving.protocol.oip import Asked, decode_request, encode_reply, is_infer, model_in

IDS = [[8, 233, 52], [9, 1, 2]]


@pytest.fixture(scope="module", params=["flask", "flask-gateway", "flask-dev"])
def url(request: pytest.FixtureRequest, bundle: Path) -> Iterator[str]:
    with http.server(str(bundle), "--engine", "onnxruntime", "--server-threads", "2", command=request.param) as server:
        yield server.endpoint


@pytest.fixture(scope="module")
def name(bundle: Path) -> str:
    return bundle.resolve().name


def ask(url: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """The status, the parsed body (bytes where it is none) and the headers."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {one.replace("_", "-"): value for one, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            status, content, told = response.status, response.read(), dict(response.headers)
    except urllib.error.HTTPError as error:
        status, content, told = error.code, error.read(), dict(error.headers)
    return status, json.loads(content) if told["Content-Type"] == "application/json" else content, told


def test_it_says_what_it_is(url: str, name: str) -> None:
    status, server, _ = ask(url, "/v2")
    assert (status, server["name"], server["extensions"]) == (
        200,
        "imdb-serving",
        ["binary_tensor_data", "model_configuration"],
    )
    assert ask(url, "/v2/health/live")[:2] == (200, {"live": True})
    assert ask(url, "/v2/health/ready")[:2] == (200, {"ready": True})
    for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/1"):
        _, model, _ = ask(url, path)
        assert model["inputs"] == [{"name": "words", "datatype": "INT64", "shape": [-1, -1]}]
        assert [(one["name"], one["datatype"], one["shape"]) for one in model["outputs"]] == [
            ("prediction", "FP32", [-1, 2]),
            ("class", "BYTES", [-1, 1]),
        ]
        assert ask(url, f"{path}/ready")[1] == {"name": name, "ready": True}
        _, config, _ = ask(url, f"{path}/config")
        assert (config["name"], config["input"][0]["data_type"]) == (name, "TYPE_INT64")
        assert config["max_batch_size"] > 1


def test_ids_and_texts_are_answered_as_json(url: str, name: str, bundle: Path) -> None:
    body = {"id": "a7", "inputs": [{"name": "words", "datatype": "INT64", "shape": [2, 3], "data": IDS}]}
    status, told, _ = ask(url, f"/v2/models/{name}/infer", body)
    assert (status, told["model_name"], told["model_version"], told["id"]) == (200, name, "1", "a7")
    prediction, likeliest = told["outputs"]
    assert (prediction["name"], prediction["datatype"], prediction["shape"]) == ("prediction", "FP32", [2, 2])
    shares = np.array(prediction["data"]).reshape(2, 2)
    labels = open_bundle(bundle).card.labels
    assert likeliest["data"] == [labels[place] for place in shares.argmax(axis=1)]
    flat = {
        "inputs": [{"name": "words", "datatype": "INT32", "shape": [1, 3], "data": IDS[0]}],
        "outputs": [{"name": "prediction"}],
    }
    _, one, _ = ask(url, f"/v2/models/{name}/versions/1/infer", flat)
    assert [output["name"] for output in one["outputs"]] == ["prediction"]
    assert np.abs(np.array(one["outputs"][0]["data"]) - shares[0]).max() < 1e-6
    texts = {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": [["a fine film"], ["schön 🎬"]]}]
    }
    status, told, _ = ask(url, f"/v2/models/{name}/infer", texts)
    assert (status, told["outputs"][0]["shape"]) == (200, [2, 2])


def test_labels_come_as_a_tensor(url: str, name: str) -> None:
    inputs = [
        {"name": "words", "datatype": "INT64", "shape": [2, 3], "data": IDS},
        {"name": "label", "datatype": "INT64", "shape": [2, 1], "data": [0, 1]},
    ]
    _, told, _ = ask(
        url, f"/v2/models/{name}/infer", {"inputs": inputs, "outputs": [{"name": "acc"}, {"name": "cost"}]}
    )
    assert [(one["name"], one["shape"]) for one in told["outputs"]] == [("acc", [2, 1]), ("cost", [2, 1])]


@pytest.mark.parametrize("binary", [False, True])
def test_tritons_client_is_answered(url: str, name: str, binary: bool) -> None:
    triton = pytest.importorskip("tritonclient.http")
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(name)
        assert client.get_model_metadata(name)["inputs"][0]["name"] == "words"
        assert client.get_model_config(name)["name"] == name
        ids = triton.InferInput("words", [2, 3], "INT64")
        ids.set_data_from_numpy(np.array(IDS, np.int64), binary_data=binary)
        wanted = [triton.InferRequestedOutput(one, binary_data=binary) for one in ("prediction", "class")]
        found = client.infer(name, [ids], outputs=wanted, request_id="x")
        shares = found.as_numpy("prediction")
        assert (shares.shape, found.as_numpy("class").shape, found.get_response()["id"]) == ((2, 2), (2, 1), "x")
        texts = triton.InferInput("text", [2, 1], "BYTES")
        texts.set_data_from_numpy(np.array([["a fine film"], ["bad"]], dtype=object), binary_data=binary)
        assert client.infer(name, [texts]).as_numpy("prediction").shape == (2, 2)
        with pytest.raises(triton.InferenceServerException, match="there is no model 'other' here"):
            client.infer("other", [ids])
        wrong = triton.InferInput("word", [1, 1], "INT64")
        wrong.set_data_from_numpy(np.array([[1]], np.int64), binary_data=binary)
        with pytest.raises(triton.InferenceServerException, match=r"\[400\] unknown feed name 'word'"):
            client.infer(name, [wrong])


def one_input(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "words", "datatype": "INT64", "shape": [1, 2], "data": [1, 2], **changes}]}


BAD = [
    (b"{", "the body is not JSON"),
    (b"[]", 'an object with a list of "inputs"'),
    ({"inputs": []}, 'list of "inputs"'),
    ({"inputs": [1]}, "an input must be an object"),
    ({"inputs": [{"name": 1}]}, "must have a name and a datatype"),
    (one_input(shape=[1, -2]), "expected a shape"),
    (one_input(shape="x"), "expected a shape"),
    (one_input(datatype="INT65"), "unknown datatype 'INT65'"),
    (one_input(data=[1]), "expected 2 values of data"),
    (one_input(data=[1, "a"]), "data is not all INT64"),
    (one_input(data=[1, 1 << 70]), "data is not all INT64"),
    (one_input(datatype="FP32"), "expected whole numbers"),
    (one_input(data=None), "expected 2 values"),
    (one_input(shape=[1, 1, 2]), "expected the shape [samples, ids]"),
    (one_input(data=[[1], 2]), "nested unevenly"),
    (one_input(datatype="BYTES"), "data of BYTES must be texts"),
    (one_input(datatype="BYTES", data=["a", "b"]), "expected texts of the shape"),
    (one_input(parameters={"binary_data_size": 9}), "binary_data_size is 9, and 0 bytes follow"),
    ({**one_input(), "outputs": [{"name": "nothing"}]}, "unknown fetch name 'nothing'"),
    ({**one_input(), "outputs": [{}]}, "an output must be an object with a name"),
    ({**one_input(), "outputs": [{"name": "class", "parameters": {"classification": 3}}]}, "classification"),
    ({**one_input(), "id": 7}, '"id" must be a text'),
    ({**one_input(), "parameters": 7}, '"parameters" must be'),
    ({"inputs": one_input()["inputs"] * 2}, "two inputs are called 'words'"),
    (one_input(data=[1, 99_999_999]), "word id 99999999 is outside"),
    (one_input(data=[1, -1]), "word id -1 is below 0"),
]


@pytest.mark.parametrize(("body", "words"), BAD, ids=[words for _, words in BAD])
def test_what_is_no_request_is_an_error_as_the_protocol_has_it(url: str, name: str, body: Any, words: str) -> None:
    status, told, _ = ask(url, f"/v2/models/{name}/infer", body)
    assert (status, list(told)) == (400, ["error"])
    assert words in told["error"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v2/models/other/infer", 404, "there is no model 'other' here"),
        ("/v2/models/{name}/versions/2/infer", 404, "there is no version '2'"),
        ("/v2/nothing", 404, "there is no /v2/nothing"),
    ],
)
def test_addresses_that_are_not_there_are_told(url: str, name: str, path: str, status: int, words: str) -> None:
    found, told, _ = ask(url, path.format(name=name), one_input())
    assert (found, list(told)) == (status, ["error"])
    assert words in told["error"]


def test_binary_tensors_are_told_by_their_header(url: str, name: str) -> None:
    head = json.dumps(
        {
            "inputs": [{"name": "words", "datatype": "INT64", "shape": [1, 3], "parameters": {"binary_data_size": 24}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    values = np.array(IDS[0], "<i8").tobytes()
    length = {"Inference_Header_Content_Length": str(len(head))}
    status, data, told = ask(url, f"/v2/models/{name}/infer", head + values, **length)
    assert (status, told["Content-Type"]) == (200, "application/octet-stream")
    answer = clients.decode(data, told["Inference-Header-Content-Length"])
    assert len(answer["outputs"][0]["data"]) == 2
    for wrong in ("x", str(len(head) + 25), "-1"):
        status, told_error, _ = ask(
            url, f"/v2/models/{name}/infer", head + values, Inference_Header_Content_Length=wrong
        )
        assert (status, "Inference-Header-Content-Length" in told_error["error"]) == (400, True)
    status, told_error, _ = ask(url, f"/v2/models/{name}/infer", head + values + b"more", **length)
    assert (status, "28 follow" in told_error["error"]) == (400, True)


def test_a_token_is_asked_for_but_for_health(bundle: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret-secret-secret-secret\n")
    token.chmod(0o600)
    with http.server("--engine", "none", "--server-threads", "1", "--token-file", str(token)) as server:
        assert ask(server.endpoint, "/v2/health/ready")[0] == 200
        status, told, _ = ask(server.endpoint, "/v2/models/none/infer", one_input())
        assert (status, list(told)) == (401, ["error"])
        shown = {"Authorization": "Bearer secret-secret-secret-secret"}
        assert ask(server.endpoint, "/v2/models/none/infer", one_input(), **shown)[0] == 200


@given(st.binary(max_size=200), st.text(max_size=5))
def test_whatever_comes_is_read_or_refused(body: bytes, length: str) -> None:
    with suppress(BadRequest):
        decode_request(body, length, "m")


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_texts_come_back_as_they_were(texts: list[str]) -> None:
    reply = Reply({"class": np.array(texts)})
    data, length = encode_reply(reply, Asked("m", "", {"class": True}))
    assert clients.decode(data, str(length))["outputs"][0]["data"] == np.array(texts).tolist()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/models/a/infer", ("a", "1")),
        ("/v2/models/a/versions/3/infer", ("a", "3")),
        ("/v2/models/a/b/infer", ("", "")),
        ("/v2/models//infer", ("", "")),
        ("/v2/models/infer", ("", "")),
        ("/v2/models/a/infer/", ("", "")),
    ],
)
def test_paths_of_predictions(path: str, expected: tuple[str, str]) -> None:
    assert (model_in(path), is_infer(path)) == (expected, expected != ("", ""))


def test_a_text_that_is_cut_short_is_refused() -> None:
    entry = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}
    head = json.dumps({"inputs": [entry]}).encode()
    with pytest.raises(BadRequest, match="a text of 9 bytes is cut short"):
        decode_request(head + struct.pack("<I", 9) + b"ab", str(len(head)), "m")
