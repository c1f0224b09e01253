"""Texts of the user's own are sent as a model reads them, with its labels where these are known."""

from __future__ import annotations

import json
from pathlib import Path

import made_models as made
import pytest

from imdb_serving.engines.importing import Options, import_model
from imdb_serving.errors import DataError
from imdb_serving.measurement.texts import length_mix, measurement_lines
from imdb_serving.text.drawing import class_of, texts_of
from imdb_serving.text.rows import Columns, TextFile, checksum

TEXTS = ["a fine film", "the worst movie, and bad", "it is good | or is it", "great!"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three classes with a tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    graph = made.mean_of_masked(folder / "model.onnx")
    options = Options(made.tokenizer(folder), labels=("bad", "fair", "good"))
    import_model(graph, folder / "bundle", options, TEXTS)
    return folder / "bundle"


def file(folder: Path, rows: list[dict[str, object]], text: str = "", label: str = "") -> TextFile:
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return TextFile(path, Columns(text, label), checksum(path))


def test_texts_become_ids_with_the_models_classes(model: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, ["good", "Bad", 1, "2"], strict=True)]
    lines = measurement_lines(4, 1, model, file(tmp_path, rows))
    assert {line.number: line.label for line in lines} == {1: 2, 2: 0, 3: 1, 4: 2}
    by_number = {line.number: line.content for line in lines}
    assert by_number[1] == "5 2 4 7 6 3 2"  # [CLS] a fine film [SEP], good
    assert {(line.classes, line.kind) for line in lines} == {(3, "ids")}
    assert length_mix(lines).startswith("4 of own.jsonl; a tenth up to ")


def test_labels_of_another_kind_are_left_out_unless_they_were_named(model: Path, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": text, "label": "spam"} for text in TEXTS]
    lines = measurement_lines(4, 1, model, file(tmp_path, rows))
    assert {(line.classes, line.label) for line in lines} == {(0, -1)}
    assert "without labels" in length_mix(lines)
    with pytest.raises(
        DataError, match=r"own.jsonl, line \d: label is 'spam', and the model's classes are bad, fair, good"
    ):
        measurement_lines(4, 1, model, file(tmp_path, rows, label="label"))


def test_a_file_without_texts_is_refused_where_texts_are_needed(model: Path, tmp_path: Path) -> None:
    ids = tmp_path / "own.data"
    ids.write_text("3 5 6 7 1\n2 21 22 0\n", encoding="utf-8")
    own = TextFile(ids, Columns(), checksum(ids))
    with pytest.raises(DataError, match=r"own.data holds word ids, and texts are needed"):
        texts_of(own, 2, 1)
    with pytest.raises(DataError, match=r"own.data, line 2, has the word id 22, and the model's are below 22"):
        measurement_lines(2, 1, model, own)


@pytest.mark.parametrize(("raw", "labels", "expected"), [
    (1, ("negative", "positive"), 1), ("pos", ("NEG", "POS"), 1), (0.0, ("neg", "pos"), 0), ("1", ("spam", "ham"), 1),
    ("ham", ("spam", "Ham "), 1), (None, ("a", "b"), -1), (True, ("a", "b"), -1), (2, ("0", "1", "2"), 2),
    ("negative", ("0", "1"), -1), (7, ("negative", "positive"), -1),
])  # fmt: skip
def test_a_label_is_the_models_class_by_name_or_by_number(raw: object, labels: tuple[str, ...], expected: int) -> None:
    assert class_of(raw, labels) == expected
