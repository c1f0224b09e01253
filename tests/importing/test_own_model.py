"""The examples of models, from their training to answers over RPC and HTTP, and to a measured row."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from imdb_serving.cli import main
from imdb_serving.clients.connect import connect
from imdb_serving.experiment.grid import run_grid
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.model.bundle import Bundle, open_bundle
from imdb_serving.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
REVIEWS = "A great, wonderful film; I loved it.\n\nThe worst film: boring, awful, a waste of time.\n"


def trained(name: str, folder: Path, *more: str) -> Path:
    script = ROOT / "examples" / "models" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, script, folder, *more], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "reviews that it has not seen" in done.stdout
    return folder


def run(*arguments: object, stdin: str = "") -> str:
    done = CliRunner().invoke(main, [str(one) for one in arguments], input=stdin, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def tfidf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = trained("tfidf", tmp_path_factory.mktemp("tfidf"))
    told = run("import", folder / "model.onnx", "--out", folder / "bundle")
    assert "text (text, string [N1])" in told
    return folder / "bundle"


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The transformer after some seconds of training, imported from Paddle's own files."""
    pytest.importorskip("paddle2onnx")
    folder = trained("transformer", tmp_path_factory.mktemp("transformer"), "3")
    told = run("import", folder / "paddle", "--out", folder / "bundle")
    assert "input_ids (ids, int64 [NL]), attention_mask (mask, int64 [NL])" in told
    assert "answers of onnxruntime  within" in told
    return folder / "bundle"


def test_a_model_is_tried_on_texts_of_the_users_own(tfidf: Path, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("id;said\n1;schöner Film\n2;nichts für mich\n", encoding="utf-8")
    options = ["--data", tmp_path / "own.csv", "--text-column", "said", "--out", tmp_path / "bundle"]
    assert "engines                 onnxruntime" in run(
        "import", tfidf / "serving_server_model" / "inference.onnx", *options
    )


@pytest.mark.parametrize("mode", ["rpc", "socket", "flask", "flask-gateway"])
def test_a_model_that_reads_texts_answers_over_every_carrier(tfidf: Path, mode: str) -> None:
    check_served(open_bundle(tfidf), mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["rpc", "flask"])
def test_a_transformer_answers_over_every_carrier(transformer: Path, mode: str) -> None:
    check_served(open_bundle(transformer), mode)


def check_served(bundle: Bundle, mode: str) -> None:
    from imdb_serving.engines.registry import EngineSpec
    from imdb_serving.server_process import ServerSpec

    spec = ServerSpec(mode, EngineSpec("onnxruntime"), bundle.folder, 2)
    with spec.process() as server, connect(server.endpoint, 10.0) as client:
        info = client.hello()
        assert (info.labels, bundle.card.main.name in info.feed) == (bundle.card.labels, True)
        name = bundle.card.main.name
        texts = REVIEWS.split("\n")[:3]
        found = client.predict_batch([{name: text} for text in texts], ["prediction", "class"])
        alone = [client.predict({"words": text, "label": 1}, ["prediction", "class", "acc"]) for text in texts]
    for one, other in zip(found, alone, strict=True):
        assert np.abs(one["prediction"] - other["prediction"]).max() < 1e-5
        assert str(one["class"]) == str(other["class"]) == bundle.card.labels[int(one["prediction"].argmax())]
        assert other["acc"][0] == (one["prediction"].argmax() == 1)


@pytest.mark.parametrize("mode", ["rpc", "flask", "inproc"])
def test_a_run_with_a_model_that_reads_texts_is_right(tfidf: Path, tmp_path: Path, mode: str) -> None:
    check_measured(tfidf, tmp_path, mode, 0.85)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["socket", "flask"])
def test_a_run_with_a_transformer_is_right(transformer: Path, tmp_path: Path, mode: str) -> None:
    check_measured(transformer, tmp_path, mode, 0.5)


def check_measured(model: Path, folder: Path, mode: str, least: float) -> None:
    params = GridParams(
        mode=mode, engine="onnxruntime", model=str(model), server_threads=2, client_threads=[2], samples=60,
        timeout=30.0, outputs=str(folder),
    )  # fmt: skip
    (row,) = run_grid(params, lambda _line: None)
    assert (row.error, row.answered, row.cell.net, row.cell.model) == ("", 60, "", "bundle")
    assert row.difference is not None
    assert row.difference <= 1e-4
    assert row.accuracy is not None
    assert row.accuracy >= least


def test_accuracy_is_left_out_where_labels_are_not_the_models(tfidf: Path, tmp_path: Path) -> None:
    data = tmp_path / "own.csv"
    data.write_text("text,label\n" + "".join(f"text {number},spam\n" for number in range(20)), encoding="utf-8")
    params = GridParams(
        engine="onnxruntime", model=str(tfidf), data=str(data), server_threads=1, client_threads=[1], samples=20,
        outputs=str(tmp_path),
    )  # fmt: skip
    (row,) = run_grid(params, lambda _line: None)
    assert (row.error, row.answered, row.accuracy, row.difference) == ("", 20, None, 0.0)


def test_predict_writes_a_class_and_a_probability_a_line(tfidf: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run("predict", tfidf, stdin=REVIEWS))))
    assert [row["class"] for row in rows][::2] == ["positive", "negative"]
    assert len(rows) == 3
    lines = [json.loads(line) for line in run("predict", tfidf, "--format", "jsonl", stdin=REVIEWS).splitlines()]
    assert [line["class"] for line in lines] == [row["class"] for row in rows]
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mode", ["serve", "flask"])
def test_predict_asks_a_server_as_well(tfidf: Path, mode: str) -> None:
    with ServerProcess([str(tfidf), "--server-threads", "1"], command=mode) as server:
        asked = run("predict", "--endpoint", server.endpoint, stdin=REVIEWS)
    assert asked == run("predict", tfidf, stdin=REVIEWS)


def test_the_published_client_leaves_texts_to_the_server(tfidf: Path) -> None:
    lines = "A great, wonderful film; I loved it. | 1\nThe worst film: boring, awful. | 0\n"
    with ServerProcess([str(tfidf), "--server-threads", "1"]) as server:
        found = run("client", tfidf / "inference.conf", "--endpoint", server.endpoint, stdin=lines)
    shares = [line.split() for line in found.splitlines()]
    assert [label for _, label in shares] == ["1", "0"]
    assert float(shares[0][0]) > 0.5 > float(shares[1][0])


def test_tune_measures_a_model_that_reads_texts(tfidf: Path) -> None:
    told = run("tune", tfidf)
    assert "model.onnx" in told
    assert [line.split()[0] for line in told.splitlines()[2:] if not line.startswith(" ")] == ["onnxruntime"]


def test_a_search_for_a_limit_takes_the_engine_that_runs_the_model(tfidf: Path, tmp_path: Path) -> None:
    from imdb_serving.cli.slo import probe_params

    (tmp_path / "own.csv").write_text("said\na fine film\nbad\n", encoding="utf-8")
    given = {"engine": "", "mode": "rpc", "data": str(tmp_path / "own.csv"), "text_column": "said"}
    params = probe_params("slo", 1, tfidf, outputs=str(tmp_path), **given)
    assert (params.engine, params.text_file is not None) == ("onnxruntime", True)


def test_a_text_that_cannot_be_predicted_leaves_its_line_empty(tfidf: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["predict", str(tfidf)], input=b"fine\nbad\xff\nfine\n")
    lines = done.stdout.splitlines()
    assert (done.exit_code, len(lines), lines[2]) == (1, 4, ",")
    assert "failed: line 2: not UTF-8: byte 3 is 0xff" in done.stderr
    data = tmp_path / "a.jsonl"
    data.write_text('{"text": "fine"}\n{"text": 3}\n', encoding="utf-8")
    done = CliRunner().invoke(main, ["predict", str(tfidf), "--data", str(data), "--format", "jsonl"])
    assert (done.exit_code, json.loads(done.stdout.splitlines()[1])) == (1, {"error": "text is 3, and no text"})
    assert f"failed: {data}, line 2: text is 3, and no text" in done.stderr


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "give a MODEL, or the --endpoint"), (["none"], "no model at none"),
    (["none", "--endpoint", "tcp://127.0.0.1:1"], "and not both"), (["none", "--text-column", "a"], "is for --data"),
])  # fmt: skip
def test_predict_refuses_what_it_cannot_do(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(main, ["predict", *arguments], input="")
    assert done.exit_code != 0
    assert words in str(done.exception) + done.output


@pytest.mark.slow
def test_the_ladder_measures_a_model_of_someone_else(transformer: Path, tmp_path: Path) -> None:
    from imdb_serving.experiment.ladder import run_ladder
    from imdb_serving.measurement.parameters import LadderParams

    params = LadderParams(model=str(transformer), rounds=2, requests=6, server_threads=1, outputs=str(tmp_path))
    assert params.engines == ["paddle", "onnxruntime", "none"]
    rows = run_ladder(params, lambda _line: None)
    assert rows
    assert [row.error for row in rows if row.error] == []
