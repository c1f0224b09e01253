"""Paddle's programs of today and of years ago become bundles; ONNX Runtime runs what paddle2onnx converts."""

from __future__ import annotations

import subprocess
import sys
from importlib import util
from pathlib import Path

import made_models as made
import numpy as np
import pytest

from imdb_serving.engines.importing import Options, import_model
from imdb_serving.engines.registry import EngineSpec, engines_of, make_engine
from imdb_serving.errors import BundleError
from imdb_serving.model.bundle import open_bundle

TEXTS = ["a fine film", "the worst movie, and bad", "it is good and it is not", "great!"]

OLD = """
import sys
import numpy as np
from imdb_serving.model.nets import paddle
from paddle.pir_utils import OldIrGuard
paddle.enable_static()
folder, rows = sys.argv[1], int(sys.argv[2])
with OldIrGuard():
    program, start = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(program, start):
        words = paddle.static.data("words", [-1, 1], "int64", lod_level=1)
        found = paddle.reshape(paddle.static.nn.embedding(words, [rows, 8]), [-1, 8])
        steps = paddle.static.nn.sequence_lod.sequence_conv(found, 6, 3, act="tanh")
        pooled = paddle.static.nn.sequence_lod.sequence_pool(steps, "max")
        answer = paddle.static.nn.fc(pooled, 2, activation="softmax")
    paddle.seed(1)
    executor = paddle.static.Executor(paddle.CPUPlace())
    executor.run(start)
    paddle.static.save_inference_model(folder + "/inference", [words], [answer], executor, program=program)
    paddle.static.save_vars(executor, folder + "/loose", program, vars=program.all_parameters())
    with paddle.static.program_guard(program, start):
        label = paddle.static.data("label", [-1, 1], "int64")
        cost, right = paddle.mean(answer), paddle.mean(paddle.cast(label, "float32"))
    fetched = [cost, right, answer]
    paddle.static.save_inference_model(folder + "/served", [words, label], fetched, executor, program=program)
    print(cost.name, right.name, answer.name)
"""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program as Paddle 1 and 2 wrote them, of ragged (LoD) inputs, as the published IMDB models are."""
    folder = tmp_path_factory.mktemp("old")
    (folder / "loose").mkdir()
    made_by = [sys.executable, "-W", "ignore", "-c", OLD, str(folder), str(made.ROWS + 1)]
    done = subprocess.run(made_by, check=True, capture_output=True, timeout=120, text=True)
    (folder / "names").write_text(done.stdout.splitlines()[-1])
    return folder


def test_a_program_with_ragged_inputs_is_run_by_paddle_alone(old: Path, tmp_path: Path) -> None:
    bundle = import_model(
        old / "inference.pdmodel", tmp_path / "one", Options(made.vocabulary(tmp_path), ("neg", "pos")), TEXTS
    )
    card = bundle.card
    assert (card.main.ragged, card.main.axes, engines_of(card)) == (True, "L1", ["paddle"])
    assert "ragged (LoD) inputs cannot be converted" in card.imported.refused["onnxruntime"]
    answers = make_engine(EngineSpec("paddle", variant="plain"), bundle).run([np.array([4, 7, 6]), np.array([9])])
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-5)


def test_a_serving_folder_as_published_says_itself_which_output_counts(old: Path, tmp_path: Path) -> None:
    """It is fed words and a label, and gives cost, accuracy and prediction; its conf has their names."""
    folder = tmp_path / "serving_server_model"
    folder.mkdir()
    (folder / "__model__").write_bytes((old / "served.pdmodel").read_bytes())
    (folder / "__params__").write_bytes((old / "served.pdiparams").read_bytes())
    (folder / "imdb.vocab").write_bytes(made.vocabulary(tmp_path).read_bytes())
    fetch = zip((old / "names").read_text().split(), ("cost", "acc", "prediction"), (1, 1, 2), strict=True)
    feed = [("words", "true", -1), ("label", "false", 1)]
    entries = [
        f'feed_var {{ name: "{name}" alias_name: "{name}" is_lod_tensor: {lod} feed_type: 0 shape: {size} }}'
        for name, lod, size in feed
    ]
    entries += [
        f'fetch_var {{ name: "{name}" alias_name: "{alias}" is_lod_tensor: false fetch_type: 1 shape: {size} }}'
        for name, alias, size in fetch
    ]
    (folder / "serving_server_conf.prototxt").write_text("\n".join(entries))
    served = import_model(tmp_path, tmp_path / "out", Options(labels=("neg", "pos")), TEXTS)
    plain = import_model(old / "inference.pdmodel", tmp_path / "plain", Options(folder / "imdb.vocab"), TEXTS)
    assert {one.name: one.role for one in served.card.main_inputs} == {"words": "ids", "label": "label"}
    samples, spec = [np.array([4, 7, 6, 9]), np.array([9])], EngineSpec("paddle", variant="plain")
    assert np.abs(make_engine(spec, served).run(samples) - make_engine(spec, plain).run(samples)).max() < 1e-6


def test_weights_in_a_file_each_are_put_together(old: Path, tmp_path: Path) -> None:
    """Paddle 1 wrote `__model__` and a file a weight; together they answer as those in one file do."""
    folder = tmp_path / "serving_server_model"
    folder.mkdir()
    (folder / "__model__").write_bytes((old / "inference.pdmodel").read_bytes())
    for weight in (old / "loose").iterdir():
        (folder / weight.name).write_bytes(weight.read_bytes())
    words = made.vocabulary(tmp_path)
    one = import_model(old / "inference.pdmodel", tmp_path / "one", Options(words), TEXTS)
    many = import_model(tmp_path, tmp_path / "many", Options(words), TEXTS)
    samples = [np.array([4, 7, 6, 9, 21]), np.array([9])]
    spec = EngineSpec("paddle", variant="plain")
    assert np.abs(make_engine(spec, one).run(samples) - make_engine(spec, many).run(samples)).max() < 1e-6


def test_a_program_that_ends_its_process_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "inference.pdmodel").write_bytes(b"\xff" * 500)
    (tmp_path / "inference.pdiparams").write_bytes(b"\x00" * 500)
    with pytest.raises(BundleError, match=r"inference.pdmodel is no Paddle program that can be read"):
        import_model(tmp_path, tmp_path / "out", Options(made.vocabulary(tmp_path)), TEXTS)


@pytest.mark.skipif(util.find_spec("paddle2onnx") is None, reason="there is no paddle2onnx for this Python")
def test_a_net_of_ours_comes_back_as_a_model_of_someone_else(bundle: Path, tmp_path: Path) -> None:
    """Its own files, imported: each engine answers within 1e-4, of the graph that paddle2onnx makes as well."""
    trained = open_bundle(bundle)
    options = Options(trained.folder / "imdb.vocab", ("negative", "positive"))
    texts = [f"a film of {number} words " * number for number in (1, 5, 30)]
    program = import_model(trained.folder, tmp_path / "program", options, texts)
    graph = import_model(trained.graph, tmp_path / "graph", options, texts)
    assert engines_of(program.card)[:2] == ["paddle", "onnxruntime"]
    assert engines_of(graph.card) == ["onnxruntime", "folded"]
    samples = [np.arange(length, dtype=np.int64) for length in (1, 40, 300)]
    expected = make_engine(EngineSpec("folded"), trained).run(samples)
    for name, one in (("paddle", program), ("onnxruntime", program), ("onnxruntime", graph), ("folded", graph)):
        variant = "onednn" if name == "paddle" else ""
        assert np.abs(make_engine(EngineSpec(name, variant=variant), one).run(samples) - expected).max() < 1e-4
