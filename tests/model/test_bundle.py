"""The model bundle on disk."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from imdb_serving.errors import BundleError
from imdb_serving.model import TUNING
from imdb_serving.model import bundle as bundles
from imdb_serving.model.bundle import Bundle, open_bundle, write_bundle
from imdb_serving.model.card import ModelCard
from imdb_serving.model.conf import IMDB_CONF, load_conf
from imdb_serving.model.export import to_onnx
from imdb_serving.text.reviews import Vocabulary
from imdb_serving.text.tokenizers import WordTokenizer

SERVER_FILES = (bundles.PROGRAM, bundles.WEIGHTS, bundles.ONNX, bundles.VOCABULARY, bundles.SERVER_CONF, bundles.CARD)

CARD = ModelCard(
    net="bow",
    vocabulary=2,
    sizes={"embedding": 128, "classes": 2},
    accuracy=0.75,
    validation_accuracy=0.5,
    epochs=1,
    seed=7,
    data_source="a test",
    data_sha256="0" * 64,
    train_reviews=10,
    held_out_reviews=2,
    versions={"python": "3"},
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The root of a bundle whose program is of no use but whose files are sound; writing it needs no Paddle."""
    program = tmp_path / "program"
    program.with_suffix(".json").write_text('{"a": "program"}', encoding="utf-8")
    program.with_suffix(".pdiparams").write_bytes(b"some weights")
    program.with_suffix(".onnx").write_bytes(a_graph(rows=4))
    root = tmp_path / "root"
    write(root, ["film", "great"], program)
    return root


def write(root: Path, words: list[str], program: Path) -> None:
    """Write a bundle of a program (its path without suffix) with these words."""
    vocabulary = program.with_suffix(".vocab")
    Vocabulary(words).save(vocabulary)
    files = {name: program.with_suffix(Path(name).suffix) for name in bundles.FILES[:3]}
    write_bundle(root, CARD, IMDB_CONF, {**files, bundles.VOCABULARY: vocabulary})


def words_of(bundle: Bundle) -> tuple[str, ...]:
    assert isinstance(bundle.tokenizer, WordTokenizer)
    return bundle.tokenizer.vocabulary.words


def a_graph(rows: int, classes: int = 2) -> bytes:
    """The ONNX graph of a bag of words."""
    shapes = {"embedding": (rows, 128), "first": (128, 128), "second": (128, 96), "out": (96, classes)}
    weights = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    biases = {f"{name}.bias": np.zeros(shape[1], np.float32) for name, shape in shapes.items()}
    graph: bytes = to_onnx("bow", {**weights, **biases}).SerializeToString()
    return graph


def sign(folder: Path, **changes: Any) -> None:
    """Have the card say other things, and all checksums fit."""
    path = folder / bundles.CARD
    card = msgspec.structs.replace(msgspec.json.decode(path.read_bytes(), type=ModelCard), **changes)
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in bundles.FILES}
    card = msgspec.structs.replace(card, files=files)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(card, checksum=card.digest())))


@pytest.fixture
def trained(bundle: Path, tmp_path: Path) -> Path:
    """The server folder of a copy of a trained bundle."""
    return Path(shutil.copytree(bundle, tmp_path / "copy")) / bundles.SERVER_DIR


def test_a_copy_that_is_signed_again_opens(trained: Path) -> None:
    sign(trained)
    assert open_bundle(trained).card.net == "cnn"


@pytest.mark.parametrize("words", [1 << 40, 0, -1, 7])
def test_a_card_that_says_another_number_of_words_is_refused(trained: Path, words: int) -> None:
    """A server took it, and every request then ended two workers: the padding word is behind all others."""
    sign(trained, vocabulary=words)
    with pytest.raises(BundleError, match=rf"says vocabulary = {words}, and .*imdb.vocab has \d+ lines"):
        open_bundle(trained)


@pytest.mark.parametrize("sizes", [{"embedding": 128, "classes": 3}, {"embedding": 64, "classes": 2}, {}])
def test_a_card_that_says_other_sizes_is_refused(trained: Path, sizes: dict[str, int]) -> None:
    sign(trained, sizes=sizes)
    with pytest.raises(BundleError, match="do not fit each other"):
        open_bundle(trained)


def test_a_vocabulary_of_more_words_than_word_vectors_is_refused(trained: Path) -> None:
    card = open_bundle(trained).card
    with (trained / bundles.VOCABULARY).open("a", encoding="utf-8") as file:
        file.write("oneword\nmore\n")
    sign(trained, vocabulary=card.vocabulary + 2)
    with pytest.raises(BundleError, match=r"inference.onnx has word vectors \[\d+, 128\], the card says"):
        open_bundle(trained)


def test_a_graph_of_another_model_is_refused(trained: Path) -> None:
    card = open_bundle(trained).card
    (trained / bundles.ONNX).write_bytes(a_graph(card.vocabulary + 2, classes=3))
    sign(trained)
    with pytest.raises(BundleError, match=r"has \[3\] classes, the card says 2"):
        open_bundle(trained)


def test_a_program_of_another_vocabulary_is_refused(trained: Path) -> None:
    card, path = open_bundle(trained).card, trained / bundles.PROGRAM
    path.write_text(path.read_text().replace(f"[{card.vocabulary + 2},128]", f"[{card.vocabulary + 1},128]"))
    sign(trained)
    with pytest.raises(BundleError, match=r"inference.json has no word vectors of \d+ rows"):
        open_bundle(trained)


def test_weights_that_are_cut_are_refused(trained: Path) -> None:
    path = trained / bundles.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])
    sign(trained)
    with pytest.raises(BundleError, match=r"inference.pdiparams has \d+ bytes, the weights in .* take"):
        open_bundle(trained)


@pytest.mark.parametrize(("before", "after"), [
    ('alias_name: "words"', 'alias_name: "tokens"'), ('alias_name: "prediction"', 'alias_name: "guess"'),
    ("shape: 2", "shape: 3"),
])  # fmt: skip
def test_a_conf_that_does_not_fit_is_refused(trained: Path, before: str, after: str) -> None:
    path = trained / bundles.SERVER_CONF
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    sign(trained)
    with pytest.raises(BundleError, match=r"serving_server_conf.prototxt"):
        open_bundle(trained)


def change_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_the_server_folder_and_the_root_open_alike(bundle: Path) -> None:
    from_root, from_server = open_bundle(bundle), open_bundle(bundle / bundles.SERVER_DIR)
    assert from_root.folder == from_server.folder == bundle / bundles.SERVER_DIR
    assert from_root.card == from_server.card
    assert from_root.conf == from_server.conf == IMDB_CONF
    assert len(words_of(from_root)) == from_root.card.vocabulary


def test_a_trained_bundle_has_the_published_files(bundle: Path) -> None:
    files = {str(file.relative_to(bundle)) for file in bundle.rglob("*") if file.is_file()}
    server = {f"serving_server_model/{name}" for name in SERVER_FILES}
    client = {"serving_client_conf/serving_client_conf.prototxt", "serving_client_conf/imdb.vocab"}
    kept_beside = {f"serving_server_model/{TUNING}"}  # what a server of another test found of this machine
    assert files - kept_beside == server | client | {"inference.conf"}


def test_the_published_conf_is_the_client_conf(bundle: Path) -> None:
    published, client = bundle / "inference.conf", bundle / "serving_client_conf" / "serving_client_conf.prototxt"
    assert published.read_bytes() == client.read_bytes()
    assert load_conf(published) == IMDB_CONF


def test_client_and_server_have_the_same_vocabulary(bundle: Path) -> None:
    client, server = bundle / bundles.CLIENT_DIR / "imdb.vocab", bundle / bundles.SERVER_DIR / "imdb.vocab"
    assert client.read_bytes() == server.read_bytes()


def test_what_is_written_comes_back(written: Path) -> None:
    opened = open_bundle(written)
    assert words_of(opened) == ("film", "great")
    assert opened.card.pad_id == 3
    assert (opened.card.accuracy, opened.card.seed, opened.card.net) == (0.75, 7, "bow")
    assert set(opened.card.files) == set(SERVER_FILES) - {bundles.CARD}
    assert (opened.program.name, opened.weights.name) == ("inference.json", "inference.pdiparams")


@pytest.mark.parametrize("name", SERVER_FILES)
def test_a_missing_file_is_named(written: Path, name: str) -> None:
    file = written / bundles.SERVER_DIR / name
    file.unlink()
    with pytest.raises(BundleError, match="is missing") as caught:
        open_bundle(written)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("name", [name for name in SERVER_FILES if name != bundles.CARD])
def test_one_changed_byte_is_found_and_its_file_named(written: Path, name: str, position: int) -> None:
    file = written / bundles.SERVER_DIR / name
    change_byte(file, position)
    with pytest.raises(BundleError, match="is damaged") as caught:
        open_bundle(written)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", SERVER_FILES)
def test_a_file_cut_off_is_named(written: Path, name: str) -> None:
    file = written / bundles.SERVER_DIR / name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(BundleError, match="is damaged") as caught:
        open_bundle(written)
    assert str(file) in str(caught.value)


def damage_card(root: Path, old: bytes, new: bytes) -> Path:
    card = root / bundles.SERVER_DIR / bundles.CARD
    content = card.read_bytes()
    assert old in content
    card.write_bytes(content.replace(old, new, 1))
    return card


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"{", b"[", id="no JSON"),
        pytest.param(b'"accuracy"', b'"acuracy"', id="a required key gone"),
        pytest.param(b'"net": "bow"', b'"net": 12345', id="a value of the wrong type"),
    ],
)
def test_a_damaged_card_is_named(written: Path, old: bytes, new: bytes) -> None:
    card = damage_card(written, old, new)
    with pytest.raises(BundleError, match="is damaged") as caught:
        open_bundle(written)
    assert str(card) in str(caught.value)


def test_a_card_that_is_not_utf8_is_named(written: Path) -> None:
    card = damage_card(written, b"a test", b"a\xfftest")
    with pytest.raises(BundleError, match="is damaged") as caught:
        open_bundle(written)
    assert str(card) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"files"', b'"filez"'), (b'"inference.pdiparams"', b'"inference.json"')],
    ids=["no files", "a file not listed"],
)
def test_a_card_that_does_not_list_all_files_is_refused(written: Path, old: bytes, new: bytes) -> None:
    card = damage_card(written, old, new)
    if new == b'"inference.json"':
        program = bundles.digest_of(written / bundles.SERVER_DIR / bundles.PROGRAM).encode()
        weights = bundles.digest_of(written / bundles.SERVER_DIR / bundles.WEIGHTS).encode()
        damage_card(written, weights, program)
    with pytest.raises(BundleError) as caught:
        open_bundle(written)
    assert str(card) in str(caught.value)


def test_a_changed_number_in_the_card_is_found(written: Path) -> None:
    damage_card(written, b'"epochs": ', b'"epochs": 1')
    with pytest.raises(BundleError, match="checksum is wrong"):
        open_bundle(written)


def test_a_path_without_a_model_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no model at .*nowhere.*imdb-serving train"):
        open_bundle(tmp_path / "nowhere")


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model_card\.json is missing"):
        open_bundle(tmp_path)


def test_writing_again_replaces_the_old_bundle(written: Path, tmp_path: Path) -> None:
    write(written, ["other", "words"], tmp_path / "program")
    assert words_of(open_bundle(written)) == ("other", "words")
    assert sorted(path.name for path in written.iterdir()) == sorted(
        [bundles.SERVER_DIR, bundles.CLIENT_DIR, bundles.PUBLISHED_CONF]
    )


def test_a_failed_writing_leaves_the_old_bundle(written: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(written, ["other"], tmp_path / "no-program")
    assert words_of(open_bundle(written)) == ("film", "great")


def test_a_bundle_may_be_moved(written: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(written, moved)
    assert open_bundle(moved).folder == moved / bundles.SERVER_DIR
