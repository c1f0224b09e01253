"""Where reviews come from, and their split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from imdb_serving.errors import DataError
from imdb_serving.text import reviews
from imdb_serving.text.formats import Example, format_ids, format_text
from imdb_serving.text.reviews import Reviews, load, read_file


def texts(examples: Sequence[Example]) -> set[str | None]:
    return {example.text for example in examples}


def test_the_packaged_reviews_are_distinct_and_a_fifth_is_held_out(packaged: Reviews) -> None:
    assert len(packaged.train) + len(packaged.held_out) == 24_904
    assert len(texts(packaged.train) | texts(packaged.held_out)) == 24_904
    assert not texts(packaged.train) & texts(packaged.held_out)
    assert len(packaged.held_out) == pytest.approx(24_904 / 5, abs=2)


def test_the_held_out_reviews_are_balanced(packaged: Reviews) -> None:
    labels = Counter(example.label for example in packaged.held_out)
    assert labels[0] == labels[1] == len(packaged.held_out) // 2


@pytest.mark.parametrize(("word", "label"), [("excellent", 1), ("worst", 0)])
def test_label_1_is_positive(packaged: Reviews, word: str, label: int) -> None:
    labels = [example.label for example in packaged.held_out if word in (example.text or "")]
    assert labels.count(label) > 3 * labels.count(1 - label) > 0


def test_the_packaged_split_is_the_same_every_time(packaged: Reviews) -> None:
    again = load("packaged")
    assert again == packaged
    assert again.source == "packaged"
    assert again.checksum == reviews.PACKAGED_SHA256


def test_another_packaged_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews, "PACKAGED_SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"SHA-256 .*expected 0{64}.*reinstall"):
        load("packaged")


KINDS = (("pos", 1), ("neg", 0))
NUMBERS = (0, 2, 10)


@pytest.fixture
def aclimdb(tmp_path: Path) -> Path:
    """The official layout with a few reviews."""
    for part in ("train", "test"):
        for name, label in KINDS:
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in NUMBERS:
                (folder / f"{number}_{2 + 7 * label}.txt").write_text(f"{part} {name} {number} é", encoding="utf-8")
    (tmp_path / "train" / "pos" / "urls.txt").write_text("no review", encoding="utf-8")
    (tmp_path / "README").write_text("no review either", encoding="utf-8")
    return tmp_path


def test_the_official_split_is_kept(aclimdb: Path) -> None:
    loaded = load(f"aclimdb:{aclimdb}")
    for part, examples in (("train", loaded.train), ("test", loaded.held_out)):
        labels = {example.text: example.label for example in examples}
        assert labels == {
            f"{part} {name} {number} é": int(name == "pos") for name in ("pos", "neg") for number in (0, 2, 10)
        }


@pytest.mark.parametrize("backwards", [False, True])
def test_the_order_of_a_listing_changes_nothing(
    aclimdb: Path, monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    before = load(f"aclimdb:{aclimdb}")
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(sorted(listed(folder), reverse=backwards)))
    assert load(f"aclimdb:{aclimdb}") == before


def test_the_checksum_tells_other_reviews(aclimdb: Path) -> None:
    before = load(f"aclimdb:{aclimdb}").checksum
    assert load(f"aclimdb:{aclimdb}").checksum == before
    (aclimdb / "test" / "neg" / "2_2.txt").write_text("changed", encoding="utf-8")
    assert load(f"aclimdb:{aclimdb}").checksum != before


@pytest.mark.parametrize(("part", "name"), [("train", "pos"), ("train", "neg"), ("test", "pos"), ("test", "neg")])
def test_a_missing_folder_is_named(aclimdb: Path, part: str, name: str) -> None:
    folder = aclimdb / part / name
    folder.rename(aclimdb / "elsewhere")
    with pytest.raises(DataError, match="is missing") as caught:
        load(f"aclimdb:{aclimdb}")
    assert str(folder) in str(caught.value)


def test_an_empty_folder_is_named(aclimdb: Path) -> None:
    folder = aclimdb / "test" / "pos"
    for file in folder.iterdir():
        file.unlink()
    (folder / "notes.txt").write_text("no review", encoding="utf-8")
    with pytest.raises(DataError, match="holds no") as caught:
        load(f"aclimdb:{aclimdb}")
    assert str(folder) in str(caught.value)


def test_a_file_that_is_not_utf8_is_named(aclimdb: Path) -> None:
    file = aclimdb / "train" / "neg" / "2_2.txt"
    file.write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="not UTF-8") as caught:
        load(f"aclimdb:{aclimdb}")
    assert str(file) in str(caught.value)


def write_lines(path: Path, lines: Sequence[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def test_a_text_file_is_split_balanced_and_without_loss(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "text.data", [format_text(f"review {number}", number % 2) for number in range(100)])
    loaded = load(source)
    assert Counter(example.label for example in loaded.held_out) == {0: 10, 1: 10}
    assert texts(loaded.train) | texts(loaded.held_out) == {f"review {number}" for number in range(100)}
    assert len(loaded.train) == 80
    assert all(int((example.text or "").split()[1]) % 2 == example.label for example in loaded.train)
    assert load(source) == loaded


def test_an_id_file_gives_word_ids(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "ids.data", [format_ids([number, 1], number % 2) for number in range(20)])
    loaded = load(source)
    ids = sorted(example.words.tolist() for example in (*loaded.train, *loaded.held_out) if example.words is not None)
    assert ids == [[number, 1] for number in range(20)]
    assert (len(loaded.train), len(loaded.held_out)) == (16, 4)


def test_a_malformed_line_of_a_file_source_is_located(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "mixed.data", ["fine | 1", "", "3 1 2 3 0"])
    with pytest.raises(DataError, match=r"mixed\.data:3: no bar; expected"):
        load(source)


@pytest.mark.parametrize("content", ["", "\n \r\n"])
def test_a_file_without_a_review_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.data"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"empty\.data holds no review"):
        read_file(path)


@pytest.mark.parametrize("source", ["packagd", "no/such/file", "imdb"])
def test_an_unknown_source_is_refused_with_those_there_are(source: str) -> None:
    with pytest.raises(DataError, match=rf"no data source '{source}'; expected 'packaged', 'aclimdb:DIR' or"):
        load(source)
