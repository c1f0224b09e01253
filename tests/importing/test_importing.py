"""Models of others become bundles, and answer as they did before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_models as made
import numpy as np
import onnxruntime
import pytest

from imdb_serving.engines.importing import Options, import_model
from imdb_serving.engines.registry import EngineSpec, engines_of, make_engine
from imdb_serving.errors import BundleError, ConfigError, DataError, ServingError
from imdb_serving.messages import Request, Tensor
from imdb_serving.model.bundle import Bundle, open_bundle
from imdb_serving.model.drafts import Told
from imdb_serving.pipeline import Pipeline, imdb_pipeline
from imdb_serving.timing import Timeline

TEXTS = [
    "A fine film, and not bad!", "The worst movie.", "It was great, it is fine. " * 6, "a", "bad bad bad bad bad bad",
    "The film is good and the movie was not.",
]  # fmt: skip


def imported(folder: Path, model: Path, **options: Any) -> Bundle:
    return import_model(model, folder / "bundle", Options(**options), TEXTS)


def ask(pipeline: Pipeline, *texts: str, fetch: tuple[str, ...] = ("prediction",)) -> dict[str, Any]:
    encoded = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    words = Tensor(np.concatenate(encoded), tuple(map(len, encoded)), text=True)
    return dict(pipeline(Request({"words": words}, fetch, len(texts)), Timeline()).outputs)


def softmax(values: Any) -> Any:
    shares = np.exp(values - values.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def expected(model: Path, bundle: Bundle, **more: Callable[[Any], Any]) -> Any:
    """What the graph itself gives for the texts, fed by hand."""
    session = onnxruntime.InferenceSession(str(model))
    assert bundle.tokenizer is not None
    found = []
    for text in TEXTS:
        ids = bundle.tokenizer.encode(text)
        feeds = {name: make(ids) for name, make in more.items()}
        found.append(session.run(None, feeds)[0][0])
    return np.array(found)


def alone(ids: Any) -> Any:
    return ids[None]


def ones(ids: Any) -> Any:
    return np.ones_like(ids)[None]


def test_a_masked_model_with_a_tokenizer_answers_as_its_graph_does(tmp_path: Path) -> None:
    model = made.mean_of_masked(tmp_path / "model.onnx")
    bundle = imported(tmp_path, model, tokenizer=made.tokenizer(tmp_path), labels=("bad", "fair", "good"))
    card = bundle.card
    assert [(one.name, one.role) for one in card.main_inputs] == [("input_ids", "ids"), ("attention_mask", "mask")]
    assert (card.labels, card.imported.runs, card.pads, card.pad_id) == (
        ("bad", "fair", "good"),
        ("onnxruntime",),
        True,
        0,
    )
    assert card.imported.found["batches"].startswith("change no answer")
    answers = ask(imdb_pipeline(EngineSpec("onnxruntime"), bundle), *TEXTS, fetch=("prediction", "class"))
    graph = softmax(expected(model, bundle, input_ids=alone, attention_mask=ones))
    assert np.abs(answers["prediction"] - graph).max() < 1e-5
    assert answers["class"].tolist() == [card.labels[place] for place in graph.argmax(axis=1)]


@pytest.mark.parametrize("square", [False, True])
def test_convolutions_of_several_widths_are_folded(tmp_path: Path, square: bool) -> None:
    model = made.convolutions(tmp_path / "model.onnx", square=square)
    bundle = imported(tmp_path, model, tokenizer=made.vocabulary(tmp_path), pad_id=0, unknown_id=1)
    assert engines_of(bundle.card) == ["onnxruntime", "folded"]
    assert bundle.card.imported.found["shortest"].startswith("4 ids")
    engines = [make_engine(EngineSpec(name), bundle) for name in ("onnxruntime", "folded")]
    samples = [np.array(ids, np.int64) for ids in ([4], [4, 5], [6, 7, 8, 9, 10, 11], [1] * 40)]
    first, second = (engine.run(samples) for engine in engines)
    assert np.abs(first - second).max() < 1e-5


def test_why_a_graph_is_not_folded_is_told(tmp_path: Path) -> None:
    model = made.mean_of_masked(tmp_path / "model.onnx")
    bundle = imported(tmp_path, model, tokenizer=made.tokenizer(tmp_path))
    assert "its word vectors are multiplied by other values" in bundle.card.imported.refused["folded"]
    with pytest.raises(ConfigError, match=r"the folded engine cannot run .*: its word vectors"):
        make_engine(EngineSpec("folded"), bundle)
    with pytest.raises(
        ConfigError, match=r"the paddle engine cannot run .*ONNX graph; use another engine \(onnxruntime\)"
    ):
        make_engine(EngineSpec("paddle"), bundle)


def test_one_logit_becomes_two_classes(tmp_path: Path) -> None:
    model = made.one_output(tmp_path / "model.onnx", "Identity")
    bundle = imported(tmp_path, model, tokenizer=made.vocabulary(tmp_path), unknown_id=1, labels=("neg", "pos"))
    logits = expected(model, bundle, words=alone)[:, 0]
    answers = ask(imdb_pipeline(EngineSpec("onnxruntime"), bundle), *TEXTS)["prediction"]
    assert np.abs(answers[:, 1] - 1 / (1 + np.exp(-logits))).max() < 1e-5
    assert np.allclose(answers.sum(axis=1), 1)


def test_one_value_from_0_to_1_is_asked_for_unless_the_option_says_it(tmp_path: Path) -> None:
    model = made.one_output(tmp_path / "model.onnx", "Sigmoid")
    words = made.vocabulary(tmp_path)
    with pytest.raises(BundleError, match="--output-is probability, or --output-is logit"):
        imported(tmp_path, model, tokenizer=words, unknown_id=1)
    bundle = imported(tmp_path, model, tokenizer=words, unknown_id=1, told=Told(gives="probability"))
    answers = ask(imdb_pipeline(EngineSpec("onnxruntime"), bundle), *TEXTS)["prediction"]
    assert np.abs(answers[:, 1] - expected(model, bundle, words=alone)[:, 0]).max() < 1e-6


@pytest.mark.parametrize("told", [Told(), Told(output="class")])
def test_a_model_that_gives_the_class_alone_is_refused(tmp_path: Path, told: Told) -> None:
    model = made.classes_alone(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="the class itself and not how likely it is"):
        imported(tmp_path, model, tokenizer=made.tokenizer(tmp_path), told=told)


@pytest.mark.parametrize("mapped", [False, True])
def test_each_probability_has_the_name_that_the_graph_gives_it(tmp_path: Path, mapped: bool) -> None:
    names = ["zebra", "apple", "mango"]
    model = made.named_classes(tmp_path / "model.onnx", names, mapped=mapped)
    bundle = imported(tmp_path, model, tokenizer=made.tokenizer(tmp_path))
    assert sorted(bundle.card.labels) == sorted(names)
    answered = ask(imdb_pipeline(EngineSpec("onnxruntime"), bundle), *TEXTS)["prediction"]
    found = [
        onnxruntime.InferenceSession(str(model)).run(None, {"words": bundle.tokenizer.encode(text)[None]})
        for text in TEXTS
    ]
    for row, outputs in zip(answered, found, strict=True):
        shares = outputs[0][0] if mapped else dict(zip(names, outputs[1][0], strict=True))
        assert dict(zip(bundle.card.labels, row, strict=True)) == pytest.approx(shares, abs=1e-6)


def test_the_length_may_come_first_and_ids_may_be_of_32_bits(tmp_path: Path) -> None:
    model = made.one_output(tmp_path / "model.onnx", "Identity", time_first=True, kind=made.INT32)
    bundle = imported(tmp_path, model, tokenizer=made.vocabulary(tmp_path), unknown_id=1)
    assert (bundle.card.main.axes, bundle.card.main.dtype) == ("LN", "int32")
    logits = expected(model, bundle, words=lambda ids: ids.astype(np.int32)[:, None])[:, 0]
    answers = ask(imdb_pipeline(EngineSpec("onnxruntime"), bundle), *TEXTS)["prediction"]
    assert np.abs(answers[:, 1] - 1 / (1 + np.exp(-logits))).max() < 1e-5


def test_the_greatest_length_is_found_and_texts_are_cut_to_it(tmp_path: Path) -> None:
    model = made.mean_of_masked(tmp_path / "model.onnx", places=37)
    bundle = imported(tmp_path, model, tokenizer=made.tokenizer(tmp_path))
    assert (bundle.card.longest, bundle.card.pads) == (37, True)
    pipeline = imdb_pipeline(EngineSpec("onnxruntime"), bundle)
    assert ask(pipeline, "film " * 500)["prediction"].shape == (1, 3)
    ids = Tensor(np.full(38, 5, np.int64), (38,))
    with pytest.raises(ServingError, match="a review of 38 words is longer than 37"):
        pipeline(Request({"input_ids": ids}, ("prediction",), 1), Timeline())


def test_padding_that_there_is_no_room_for_is_not_called_harmless(tmp_path: Path) -> None:
    model = made.mean_of_masked(tmp_path / "model.onnx", places=5)
    bundle = imported(tmp_path, model, tokenizer=made.tokenizer(tmp_path), longest=5)
    assert (bundle.card.longest, bundle.card.pads) == (5, False)
    assert "was not tried" in bundle.card.imported.found["padding"]


def test_a_fixed_length_is_filled_with_padding(tmp_path: Path) -> None:
    model = made.mean_of_masked(tmp_path / "model.onnx", length=16)
    bundle = imported(tmp_path, model, tokenizer=made.tokenizer(tmp_path))
    assert (bundle.card.graph.length, bundle.card.longest) == (16, 16)
    padded = lambda value: lambda ids: np.array([[*(ids if value is None else [1] * len(ids)), *[0] * 16][:16]])  # noqa: E731
    graph = softmax(expected(model, bundle, input_ids=padded(None), attention_mask=padded(1)))
    answers = ask(imdb_pipeline(EngineSpec("onnxruntime"), bundle), *TEXTS)["prediction"]
    assert np.abs(answers - graph).max() < 1e-5


def test_further_inputs_are_told_by_their_names(tmp_path: Path) -> None:
    model = made.mean_of_masked(tmp_path / "model.onnx", extra="token_type_ids", mask="input_mask", kind=made.FLOAT)
    bundle = imported(tmp_path, model, tokenizer=made.tokenizer(tmp_path))
    assert [one.role for one in bundle.card.main_inputs] == ["ids", "mask", "types"]


def test_inputs_whose_names_say_nothing_are_asked_for(tmp_path: Path) -> None:
    model, words = made.two_inputs(tmp_path / "model.onnx"), made.vocabulary(tmp_path)
    with pytest.raises(BundleError, match=r"the input 'x' .* can be anything; say what it is: --input x=ids"):
        imported(tmp_path, model, tokenizer=words, unknown_id=1)
    bundle = imported(tmp_path, model, tokenizer=words, unknown_id=1, told=Told(inputs={"x": "ids", "y": "lengths"}))
    graph = softmax(expected(model, bundle, x=alone, y=lambda ids: np.array([len(ids)])))
    answers = ask(imdb_pipeline(EngineSpec("onnxruntime"), bundle), *TEXTS)["prediction"]
    assert np.abs(answers - graph).max() < 1e-5


def test_clients_may_send_what_the_model_takes_padding_and_all(tmp_path: Path) -> None:
    model = made.mean_of_masked(tmp_path / "model.onnx", extra="token_type_ids")
    bundle = imported(tmp_path, model, tokenizer=made.tokenizer(tmp_path))
    pipeline = imdb_pipeline(EngineSpec("onnxruntime"), bundle)
    ids = np.array([[2, 5, 6, 3, 0, 0], [2, 7, 3, 0, 0, 0]])
    feed = {
        "input_ids": Tensor(ids),
        "attention_mask": Tensor((ids > 0).astype(np.int64)),
        "token_type_ids": Tensor(0 * ids),
    }
    together = pipeline(Request(feed, ("prediction",), 2), Timeline()).outputs["prediction"]
    for row, length in ((0, 4), (1, 3)):
        one = {"input_ids": Tensor(ids[row, :length], (length,))}
        assert (
            np.abs(pipeline(Request(one, ("prediction",), 1), Timeline()).outputs["prediction"] - together[row]).max()
            < 1e-6
        )
    feed["token_type_ids"] = Tensor(0 * ids + 1)
    with pytest.raises(ServingError, match="'token_type_ids' must be 0"):
        pipeline(Request(feed, ("prediction",), 2), Timeline())
    feed = {"input_ids": Tensor(ids), "attention_mask": Tensor(ids[:, :2])}
    with pytest.raises(ServingError, match="'attention_mask' must have a value for each id"):
        pipeline(Request(feed, ("prediction",), 2), Timeline())


@pytest.mark.parametrize(("options", "words"), [
    ({}, "say what makes them: --tokenizer FILE"),
    ({"labels": ("a", "b")}, "--labels names 2 classes, and the model has 3"),
    ({"told": Told(inputs={"mask": "mask"})}, "--input mask: the model has no such input.*attention_mask"),
    ({"told": Told(output="score")}, "--output score: the model has no such output"),
])  # fmt: skip
def test_what_is_missing_or_wrong_is_told_by_the_options_name(tmp_path: Path, options: Any, words: str) -> None:
    model = made.mean_of_masked(tmp_path / "model.onnx")
    place = tmp_path / "elsewhere"
    place.mkdir()
    if options:
        options = {"tokenizer": made.tokenizer(place), **options}
    with pytest.raises(BundleError, match=words):
        imported(tmp_path, model, **options)
    assert not (tmp_path / "bundle" / "serving_server_model").exists()
    assert not list((tmp_path / "bundle").glob(".import-*"))


def test_a_vocabulary_of_more_words_than_the_model_has_is_refused(tmp_path: Path) -> None:
    model = made.one_output(tmp_path / "model.onnx", "Identity")
    with pytest.raises(BundleError, match=r"the model fails with the id 22 of an unknown word.*--unknown-id"):
        imported(tmp_path, model, tokenizer=made.vocabulary(tmp_path))


@pytest.mark.parametrize(("name", "content", "words"), [
    ("model.pt", b"PK", "is a pickle, or may be one"), ("model.pdparams", b"\x80", "is a pickle"),
    ("model.onnx", b"garbage", "is no ONNX file"), ("model.json", b"{}", "is no Paddle program"),
    ("model.txt", b"", "no model that is read here"), ("nothing.onnx", None, "there is no model at"),
])  # fmt: skip
def test_files_that_are_no_model_are_refused(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError, match=words):
        imported(tmp_path, tmp_path / name, tokenizer=made.vocabulary(tmp_path))


@pytest.mark.parametrize("content", [b"{", b'{"model": 1}', b'{"version": "1.0", "model": {"type": "WordLevel"}}'])
def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer.json is no tokenizer that can be used here"):
        imported(tmp_path, made.mean_of_masked(tmp_path / "model.onnx"))


def test_weights_outside_the_models_folder_are_refused(tmp_path: Path) -> None:
    import onnx

    model = made.mean_of_masked(tmp_path / "inner.onnx")
    loaded = onnx.load_model(model)
    for one in loaded.graph.initializer[:1]:
        one.ClearField("raw_data")
        one.data_location = onnx.TensorProto.EXTERNAL
        entry = one.external_data.add()
        entry.key, entry.value = "location", "../secret"
    model.write_bytes(loaded.SerializeToString())
    with pytest.raises(BundleError, match=r"has weights in '../secret'; they must lie beside it"):
        imported(tmp_path, model, tokenizer=made.tokenizer(tmp_path))


def test_weights_beside_the_graph_come_with_it(tmp_path: Path) -> None:
    import onnx

    model = made.mean_of_masked(tmp_path / "model.onnx")
    onnx.save_model(
        onnx.load_model(model), model, save_as_external_data=True, location="model.onnx_data", size_threshold=100
    )
    bundle = imported(tmp_path, model, tokenizer=made.tokenizer(tmp_path))
    assert (bundle.folder / "model.onnx_data").is_file()
    assert ask(imdb_pipeline(EngineSpec("onnxruntime"), bundle), *TEXTS)["prediction"].shape == (len(TEXTS), 3)
    with (bundle.folder / "model.onnx_data").open("ab") as file:
        file.write(b"more")
    with pytest.raises(BundleError, match=r"model.onnx_data is damaged"):
        open_bundle(bundle.folder)


def test_a_file_that_names_itself_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    import msgspec

    bundle = imported(tmp_path, made.mean_of_masked(tmp_path / "model.onnx"), tokenizer=made.tokenizer(tmp_path))
    card = msgspec.structs.replace(bundle.card, files={**bundle.card.files, "../../etc/passwd": "0"})
    card = msgspec.structs.replace(card, checksum=card.digest())
    (bundle.folder / "model_card.json").write_bytes(msgspec.json.encode(card))
    with pytest.raises(BundleError, match="which cannot be in its folder; import the model again"):
        open_bundle(bundle.folder)
