"""Packages that are not installed: what does without them, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from imdb_serving import packages
from imdb_serving.engines import registry, tuning
from imdb_serving.engines.cross_check import not_installed
from imdb_serving.engines.importing import Options, import_model
from imdb_serving.engines.registry import EngineSpec, engines_for, engines_of, make_engine
from imdb_serving.errors import ConfigError
from imdb_serving.model import PROGRAM, SERVER_DIR, VOCABULARY
from imdb_serving.model.bundle import open_bundle


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without Paddle and numba."""
    installed = packages.is_installed
    for module in (packages, registry):
        monkeypatch.setattr(
            module, "is_installed", lambda name: name not in {"paddlepaddle", "numba"} and installed(name)
        )


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("paddle", "pip install 'imdb-serving[paddle]'"),
        ("pandas", "pip install 'imdb-serving[report]'"),
        ("numba", "pip install 'imdb-serving[folded]'"),
        ("tokenizers", "pip install 'imdb-serving[import]'"),
        ("ipywidgets", "pip install 'imdb-serving[lab]'"),
        ("paddle2onnx", "pip install 'imdb-serving[models]'"),
        ("grpc", "pip install 'imdb-serving[grpc]'"),
        ("mlperf_loadgen", "pip install 'imdb-serving[loadgen]'"),
        ("nobodys", "pip install nobodys"),
    ],
)
def test_a_missing_package_is_of_an_extra(package: str, command: str) -> None:
    assert packages.install(package) == command


@pytest.mark.usefixtures("plain")
def test_engines_that_are_not_installed_are_not_chosen(bundle: Path) -> None:
    own = open_bundle(bundle)
    assert engines_of(own.card) == engines_for("cnn") == ["onnxruntime"]
    assert set(tuning.all_known(own)) <= {"onnxruntime"}
    for use in (make_engine, tuning.find):
        with pytest.raises(
            ConfigError, match=r"paddlepaddle: pip install .*\[paddle\]'.*another engine \(onnxruntime\)"
        ):
            use(EngineSpec("paddle"), own)


@pytest.mark.usefixtures("plain")
def test_an_import_says_which_engines_it_could_not_try(bundle: Path, tmp_path: Path) -> None:
    told = not_installed({"paddle": "it runs Paddle's own programs, and this is an ONNX graph"})
    assert list(told) == ["folded"]
    assert "numba: pip install 'imdb-serving[folded]', then import again" in told["folded"]
    program = bundle / SERVER_DIR / PROGRAM
    with pytest.raises(ConfigError, match="needs the package paddlepaddle"):
        import_model(program, tmp_path / "made", Options(tokenizer=program.with_name(VOCABULARY)), ["a film"])
    assert not (tmp_path / "made").exists()
