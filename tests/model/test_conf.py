"""Feed and fetch variables in Paddle Serving's text format."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imdb_serving.errors import BundleError
from imdb_serving.model.conf import FLOAT32, IMDB_CONF, INT64, ModelConf, Variable, load_conf, save_conf

HANDWRITTEN = """
feed_var {
  name: "words_0"
  alias_name: "words"
  is_lod_tensor: true
  feed_type: 0
  shape: -1
}
feed_var {
  name: "image"
  is_lod_tensor: false
  feed_type: 1
  shape: 3
  shape: 224
  shape: 224
}
fetch_var {
  name: "fc_1.tmp_2"
  alias_name: "prediction"
  is_lod_tensor: false
  fetch_type: 1
  shape: 2
}
"""


def write(folder: Path, content: str) -> Path:
    path = folder / "some.prototxt"
    path.write_text(content, encoding="utf-8")
    return path


def test_a_handwritten_conf_of_paddle_serving_loads(tmp_path: Path) -> None:
    conf = load_conf(write(tmp_path, HANDWRITTEN))
    assert conf.feed == (
        Variable("words_0", "words", True, INT64, (-1,)),
        Variable("image", "image", False, FLOAT32, (3, 224, 224)),
    )
    assert conf.fetch == (Variable("fc_1.tmp_2", "prediction", False, FLOAT32, (2,)),)
    assert (conf.feed_names, conf.fetch_names) == (("words", "image"), ("prediction",))


def test_comments_short_lists_and_angle_brackets_are_protobufs_own(tmp_path: Path) -> None:
    conf = load_conf(write(tmp_path, "# by hand\nfeed_var < name: 'a' shape: [1, 2] >\nfetch_var { name: 'b' }"))
    assert (conf.feed[0].shape, conf.fetch[0].shape) == ((1, 2), ())


def test_unknown_fields_are_tolerated(tmp_path: Path) -> None:
    extra = HANDWRITTEN.replace(
        'name: "words_0"', 'name: "words_0"\n  lod_level: 1\n  meta { author: "x" tags: [1, 2] }'
    )
    assert load_conf(write(tmp_path, extra + '\nengine { kind: "GPU" }\nnew: true\n')) == load_conf(
        write(tmp_path, HANDWRITTEN)
    )


def test_the_imdb_conf_comes_back_from_its_file(tmp_path: Path) -> None:
    save_conf(IMDB_CONF, tmp_path / "conf")
    assert load_conf(tmp_path / "conf") == IMDB_CONF


VARIABLES = st.lists(
    st.builds(
        Variable,
        name=st.text(),
        alias_name=st.text(min_size=1),
        is_lod_tensor=st.booleans(),
        type=st.integers(0, 20),
        shape=st.lists(st.integers(-1, 2**31 - 1), max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@settings(max_examples=50)
@given(st.builds(ModelConf, feed=VARIABLES, fetch=VARIABLES))
def test_any_conf_comes_back_from_its_file(tmp_path_factory: pytest.TempPathFactory, conf: ModelConf) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.prototxt"
    save_conf(conf, path)
    assert load_conf(path) == conf


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(HANDWRITTEN[:-3], id="cut off"),
        pytest.param(HANDWRITTEN.replace("shape: 2\n", "shape: two\n"), id="word for a number"),
        pytest.param(HANDWRITTEN.replace("shape: 2\n", "shape: 99999999999\n"), id="number too large"),
        pytest.param(HANDWRITTEN.replace("true", "maybe"), id="neither true nor false"),
        pytest.param("{}", id="JSON"),
        pytest.param("", id="empty"),
        pytest.param('feed_var { name: "words" }', id="nothing to fetch"),
        pytest.param('fetch_var { name: "prediction" }', id="nothing to feed"),
    ],
)
def test_a_damaged_conf_is_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(BundleError, match=r"some\.prototxt"):
        load_conf(write(tmp_path, content))


def test_a_conf_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "binary.conf"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(BundleError, match=r"binary\.conf"):
        load_conf(path)


def test_a_missing_conf_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"absent\.conf"):
        load_conf(tmp_path / "absent.conf")


def test_a_fetch_variable_that_is_not_there_brings_the_nearest() -> None:
    path = Path("inference.conf")
    IMDB_CONF.require_fetch("prediction", path)
    with pytest.raises(BundleError, match=r"inference\.conf .*'predicton'; did you mean 'prediction'"):
        IMDB_CONF.require_fetch("predicton", path)
