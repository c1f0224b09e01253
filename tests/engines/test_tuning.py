"""The fastest variant is found once, kept beside the model, and the same for all workers."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from imdb_serving.engines import tuning
from imdb_serving.engines.registry import ENGINES, EngineSpec
from imdb_serving.engines.stand_ins import NoneEngine
from imdb_serving.errors import ConfigError
from imdb_serving.model import TUNING
from imdb_serving.model.bundle import Bundle, open_bundle
from imdb_serving.model.signature import Ids, Probabilities

PADDLE = EngineSpec("paddle")


@pytest.fixture
def own(bundle: Path, tmp_path: Path) -> Bundle:
    """A bundle that this test alone uses, not tuned yet."""
    shutil.copytree(bundle, tmp_path / "own", ignore=shutil.ignore_patterns(TUNING))
    return open_bundle(tmp_path / "own")


class Slow(NoneEngine):
    """Takes its time for each review, and more for a length that it has not seen."""

    def __init__(self, milliseconds: float, first_time: float = 0.0) -> None:
        self.milliseconds, self.first_time = milliseconds, first_time
        self.seen: set[int] = set()

    def run(self, reviews: Sequence[Ids]) -> Probabilities:
        (review,) = reviews
        time.sleep((self.milliseconds + (self.first_time if len(review) not in self.seen else 0.0)) / 1000)
        self.seen.add(len(review))
        return super().run(reviews)


def test_the_fastest_is_chosen_and_an_engine_pays_for_preparing_new_lengths(own: Bundle) -> None:
    engines = {"slow": Slow(6), "prepares": Slow(0, first_time=12), "quick": Slow(1)}
    found = tuning.measure(engines, own)
    assert found.variant == "quick"
    assert found.reviews_per_second["slow"] > found.reviews_per_second["prepares"]


def test_of_equals_the_first_is_chosen(own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(tuning, "perf_counter", lambda: next(clock))
    assert tuning.measure({"first": NoneEngine(), "second": NoneEngine()}, own).variant == "first"


def test_what_was_found_is_kept_beside_the_model_and_not_measured_again(
    own: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tuning.known(PADDLE, own) is None
    resolved = tuning.resolve(PADDLE, own)
    assert resolved.variant in ENGINES["paddle"].variants
    kept = json.loads((own.folder / TUNING).read_text(encoding="utf-8"))
    assert list(kept) == [tuning.key_of(PADDLE)]
    assert set(kept[tuning.key_of(PADDLE)]["reviews_per_second"]) == set(ENGINES["paddle"].variants)
    monkeypatch.setattr(tuning, "find_apart", lambda *_: pytest.fail("measured again"))
    assert tuning.resolve(PADDLE, own) == resolved
    assert open_bundle(own.folder).card == own.card  # the model itself is not touched


def test_another_processor_library_or_number_of_math_threads_is_measured_anew(
    own: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning._keep(own, {tuning.key_of(PADDLE): tuning.Result("onednn", {}, "")})
    assert tuning.known(PADDLE, own) is not None
    assert tuning.known(EngineSpec("paddle", math_threads=2), own) is None
    monkeypatch.setattr(tuning.metadata, "version", lambda _: "0.0")
    assert tuning.known(PADDLE, own) is None
    monkeypatch.undo()
    monkeypatch.setattr(tuning, "processor", lambda: "another one")
    assert tuning.known(PADDLE, own) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"key": {"variant": 3}}'])
def test_a_file_that_cannot_be_read_is_measured_again(own: Bundle, content: bytes) -> None:
    (own.folder / TUNING).write_bytes(content)
    assert tuning.known(PADDLE, own) is None
    tuning._keep(own, {tuning.key_of(PADDLE): tuning.Result("plain", {}, "")})
    assert tuning.resolve(PADDLE, own).variant == "plain"


def test_a_folder_that_cannot_be_written_is_a_warning(
    own: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(tuning, "measure", lambda engines, bundle: tuning.Result("plain", {}, ""))
    assert tuning.find(PADDLE, own).variant == "plain"
    assert "cannot be kept beside the model" in caplog.text


def test_what_needs_no_probe_is_left_as_it_is(own: Bundle) -> None:
    for spec in (EngineSpec("none"), EngineSpec("onnxruntime"), EngineSpec("paddle", variant="onednn")):
        assert tuning.resolve(spec, own) is spec
    with pytest.raises(ConfigError, match="needs a model"):
        tuning.resolve(PADDLE, None)


def test_the_processor_has_a_name() -> None:
    assert tuning.processor() == tuning.processor() != ""
