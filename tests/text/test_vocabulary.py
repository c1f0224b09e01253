"""Words and the vocabulary file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imdb_serving.errors import DataError
from imdb_serving.text import reviews
from imdb_serving.text.reviews import Vocabulary, tokenise

PUNCTUATION = ";,.?!()"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("GREAT Film", ["great", "film"]),
        ("end.<br /><br />Start", ["end", ".", "start"]),
        ("one<br />two<BR />three", ["one", "two", "three"]),
        ("a;b,c.d?e!f(g)h", ["a", ";", "b", ",", "c", ".", "d", "?", "e", "!", "f", "(", "g", ")", "h"]),
        ("wait...", ["wait", ".", ".", "."]),
        (" \t two\n\nwords \r\n", ["two", "words"]),
        ("don't stop: it's well-known", ["don't", "stop:", "it's", "well-known"]),
        ("nbsp\u00a0and\x85next\u2028line", ["nbsp", "and", "next", "line"]),
        ("", []),
        (" <br /> ", []),
    ],
)
def test_a_review_is_split_as_published(text: str, words: list[str]) -> None:
    assert tokenise(text) == words


@given(st.text(alphabet=st.one_of(st.sampled_from(PUNCTUATION + " \n\x85ABé"), st.characters(codec="utf-8"))))
def test_words_hold_no_space_and_punctuation_stands_alone(text: str) -> None:
    words = tokenise(text)
    assert all(word and not any(character.isspace() for character in word) for word in words)
    assert all(len(word) == 1 or not set(word) & set(PUNCTUATION) for word in words)
    if "<br" not in text.lower():
        assert "".join(words) == "".join(text.lower().split())


def test_an_unknown_word_has_the_size_of_the_vocabulary_as_id() -> None:
    vocabulary = Vocabulary(["the", "film", "."])
    assert vocabulary.unknown == len(vocabulary) == 3
    assert vocabulary.encode("The WORST film.").tolist() == [0, 3, 1, 2]
    assert "film" in vocabulary
    assert "worst" not in vocabulary


def test_an_empty_review_encodes_to_an_empty_int64_array() -> None:
    encoded = Vocabulary(["a"]).encode("")
    assert encoded.shape == (0,)
    assert encoded.dtype == "int64"


def test_of_a_repeated_word_the_last_position_counts(tmp_path: Path) -> None:
    path = tmp_path / "imdb.vocab"
    path.write_text("film\nthe\nfilm\n", encoding="utf-8")
    vocabulary = Vocabulary.load(path)
    assert vocabulary.encode("film the other").tolist() == [2, 1, 3]


def test_build_keeps_frequent_words_most_frequent_first_then_by_alphabet() -> None:
    vocabulary = Vocabulary.build(["b a c", "b a c", "c rare"], minimum_count=2)
    assert vocabulary.words == ("c", "a", "b")


@settings(max_examples=50)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_a_built_vocabulary_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    vocabulary = Vocabulary.build([*texts, "always"], minimum_count=1)
    path = tmp_path_factory.getbasetemp() / "round_trip.vocab"
    vocabulary.save(path)
    assert Vocabulary.load(path).words == vocabulary.words


def test_odd_line_separators_inside_words_do_not_end_a_line(tmp_path: Path) -> None:
    words = ("plain", "next\x85line", "line\u2028separator", "paragraph\u2029separator", "form\x0cfeed", "naïve")
    path = tmp_path / "imdb.vocab"
    Vocabulary(words).save(path)
    assert Vocabulary.load(path).words == words


def test_a_vocabulary_file_with_crlf_and_without_a_last_line_end_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "imdb.vocab"
    path.write_bytes(b"the\r\nfilm\r\nend")
    assert Vocabulary.load(path).words == ("the", "film", "end")


@pytest.mark.parametrize("content", [None, b"", b"caf\xe9\n"], ids=["missing", "empty", "latin-1"])
def test_an_unusable_vocabulary_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "some.vocab"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"some\.vocab"):
        Vocabulary.load(path)


def test_a_folder_is_no_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=tmp_path.name):
        Vocabulary.load(tmp_path)


@pytest.mark.parametrize("limit", ["MAX_WORDS", "MAX_BYTES"])
def test_a_vocabulary_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Ten million lines took 1.4 GB."""
    path = tmp_path / "imdb.vocab"
    path.write_text("word\n" * 20)
    assert len(Vocabulary.load(path)) == 20
    monkeypatch.setattr(reviews, limit, 19)
    with pytest.raises(DataError, match="is too large: at most"):
        Vocabulary.load(path)
