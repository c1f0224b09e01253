"""Parameter files and notebook parameters: what is accepted, and how the rest is refused."""

from __future__ import annotations

import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from repository import own_files

from imdb_serving.analysis.intervals import needed
from imdb_serving.analysis.usl import LEAST_COUNTS
from imdb_serving.config import project_root
from imdb_serving.engines.registry import ENGINES
from imdb_serving.errors import ConfigError
from imdb_serving.measurement.parameters import GridParams, LadderParams, SweepParams, load_sweep, make, model_folder
from imdb_serving.measurement.parameters.kinds import Axes

ROOT = Path(__file__).parents[2]
PARAMS = own_files("params/*.yaml")
BY_NAME = {path.stem: path for path in PARAMS}


def write(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", PARAMS, ids=lambda path: path.stem)
def test_every_packaged_file_loads(path: Path) -> None:
    params = load_sweep(path)
    assert {"rpc", "socket", "http"} & set(params.modes)
    assert params.server_threads
    assert params.client_threads


def test_default_is_made_for_two_cores() -> None:
    params = load_sweep(BY_NAME["default"])
    assert params.server_threads == [1, 2]
    assert (params.rounds, params.batch, params.ladder_rounds, params.twin) == (4, 1, 5, True)
    assert (params.engine, params.net) == ("paddle", "cnn")
    assert {mode for part in params.parts() for mode in part.modes} == {"rpc", "socket", "flask"}


def test_default_has_what_the_analysis_needs() -> None:
    """A certified p99 in each round, and six client counts for the Universal Scalability Law."""
    params = load_sweep(BY_NAME["default"])
    assert params.samples >= needed(0.99)
    assert all(len(part.client_threads) >= LEAST_COUNTS for part in params.parts())


def test_every_real_engine_has_cells_in_the_sweep_of_engines() -> None:
    engines = [part.engine for part in load_sweep(BY_NAME["engines"]).parts()]
    assert engines == [name for name, facts in ENGINES.items() if facts.needs_model or name == "none"]


def test_published_grid_is_six_by_seven() -> None:
    params = load_sweep(BY_NAME["paddle_serving_2020"])
    assert params.server_threads == [4, 8, 12, 16, 20, 24]
    assert params.client_threads == [1, 4, 8, 12, 16, 20, 24]
    assert (params.samples, params.rounds, params.net) == (2500, 1, "cnn")


def test_the_published_flask_rows_are_there_as_published() -> None:
    _, flask = load_sweep(BY_NAME["paddle_serving_2020"]).parts()
    assert (flask.modes, flask.http_client) == (["flask-dev"], "curl")
    assert flask.client_threads == [1, 2, 4, 8, 12, 16, 20, 24]
    assert (flask.samples, flask.timeout) == (2500, 30.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mode: flsk", "mode: unknown value 'flsk'; did you mean 'flask'"),
        ("mode: [rpc, flask, rpc]", "expected different modes"),
        ("mode: []", "expected different modes"),
        ("http_client: crul", "http_client: unknown value 'crul'; did you mean 'curl'"),
        ("ladder_rounds: -1", "ladder_rounds: must be at least 0"),
        ("ladder_rounds: 1", "ladder_rounds: an interval needs at least 2, got 1"),
        ("also: [{modee: flask}]", "also, entry 1: unknown parameter 'modee'; did you mean 'mode'"),
        ("also: [{mode: flsk}]", "also, entry 1: mode: unknown value 'flsk'; did you mean 'flask'"),
        ("also: [{mode: flask}, {rounds: 2}]", "also, entry 2: rounds belongs to the whole sweep"),
        ("also: [{also: []}]", "also, entry 1: also belongs to the whole sweep"),
        ("also: [flask]", "also"),
        ("cluster: everywhere", "cluster: expected local, auto, ray://HOST:PORT or HOST:PORT, got 'everywhere'"),
        ("placement: apart", "placement apart: there is one machine; set cluster to auto or to an address"),
        ("server_nodes: [1, 2]", "2 server nodes: there is one machine"),
        ("cluster: auto\nserver_nodes: [1, 2]", "server_nodes: with placement shared there is one, got 2"),
        ("cluster: auto\nplacement: spread\nclient_nodes: 1", "client_nodes: placement spread needs at least 2"),
        ("cluster: auto\nplacement: spred", "placement: unknown value 'spred'; did you mean 'spread'"),
        ("cluster: auto\nalso: [{cluster: local}]", "also, entry 1: cluster belongs to the whole sweep"),
    ],
)
def test_a_wrong_mode_or_further_grid_is_refused_with_what_was_meant(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_sweep(write(tmp_path, text + "\n"))


def test_processes_are_an_axis_where_workers_are_threads_that_several_can_have(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "engine: none\nmode: [flask-gateway, socket]\nserver_threads: [1, 4]\nserver_processes: [1, 2, 4]\n"
        "also: [{mode: [rpc, flask], server_threads: [2]}, {mode: flask, engine: paddle}]\n",
    )
    runs = [part.grid(axes, 1, "s", "r", tmp_path) for part, axes in load_sweep(path).every_grid()]
    assert [(run.mode, run.engine, run.server_threads, run.server_processes) for run in runs] == [
        ("flask-gateway", "none", 1, 1), ("flask-gateway", "none", 4, 1),
        ("socket", "none", 1, 1), ("socket", "none", 4, 1), ("socket", "none", 4, 2), ("socket", "none", 4, 4),
        ("rpc", "none", 2, 1), ("rpc", "none", 2, 2), ("flask", "none", 2, 1), ("flask", "none", 2, 2),
        ("flask", "paddle", 1, 1), ("flask", "paddle", 4, 1),
    ]  # fmt: skip
    one, two = runs[3], runs[4]
    assert one.cells()[0].key != two.cells()[0].key
    assert (one.cells()[0].label(["server_processes"]), two.cells()[0].label(["server_processes"])) == (
        "", "2 server processes",
    )  # fmt: skip
    assert one.server.arguments[one.server.arguments.index("--processes") + 1] == "1"  # nothing is left to the server
    assert two.server.arguments[two.server.arguments.index("--processes") + 1] == "2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mode: rpc\nserver_processes: [2]", "server_processes: 2 are for workers that are threads"),
        ("mode: socket\nengine: paddle\nserver_processes: [2]", "got socket with workers of the kind process"),
        ("mode: socket\nengine: none\nserver_processes: [8]", "server_processes: 8 need as many server threads, got 4"),
        ("mode: flask\nengine: none\nserver_processes: []", "server_processes: expected different whole numbers"),
        (
            "mode: flask\nengine: none\nalso: [{mode: flask-gateway, server_processes: [2]}]",
            "also, entry 1: server_processes: 2",
        ),
    ],
)
def test_processes_that_no_server_can_have_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_sweep(write(tmp_path, text + "\n"))


@pytest.mark.parametrize("cluster", ["auto", "ray://head.example.org:10001", "10.0.0.1:6379"])
def test_a_cluster_named_for_a_sweep_takes_the_place_of_the_files(tmp_path: Path, cluster: str) -> None:
    path = write(tmp_path, "placement: apart\nserver_nodes: [1, 2]\nmode: [rpc, inproc]\nserver_threads: [2]\n")
    params = load_sweep(path, cluster)
    runs = [part.grid(axes, 1, "s", "r", tmp_path) for part, axes in params.every_grid()]
    assert [(run.mode, run.nodes) for run in runs] == [("rpc", (1, 1)), ("rpc", (2, 1)), ("inproc", (1, 0))]
    assert {run.cluster for run in runs} == {cluster}
    cells = [run.cells()[0] for run in runs]
    assert [cell.label(["placement", "server_nodes"]) for cell in cells] == [
        "clients on another node",
        "clients on another node, 2 server nodes",
        "clients on the server's node",
    ]


def test_on_a_cluster_the_section_for_it_overrules_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, "samples: 10\nclient_threads: [1]\non_cluster: {placement: apart, node_cores: 48}\n")
    here, there = load_sweep(path), load_sweep(path, "auto")
    assert (here.placement, here.node_cores) == ("shared", 1)
    assert (there.placement, there.node_cores, there.samples) == ("apart", 48, 10)
    for wrong in ("on_cluster: {placment: apart}", "on_cluster: [1]", "on_cluster: {node_cores: 0}"):
        with pytest.raises(ConfigError, match=r"placement|on_cluster|node_cores"):
            load_sweep(write(tmp_path, f"{wrong}\n"))


def test_the_published_grid_is_for_a_node_of_48_cores() -> None:
    params = load_sweep(ROOT / "params" / "paddle_serving_2020.yaml", "auto")
    cells = [cell for part, axes in params.every_grid() for cell in part.grid(axes, 1, "s", "r", ROOT).cells()]
    published = [cell for cell in cells if cell.mode == "rpc"]
    assert len(published) == 6 * 7
    assert {(cell.placement, cell.server_nodes, cell.client_nodes) for cell in cells} == {("shared", 1, 0)}
    largest = max(cell.server_threads + cell.client_threads for cell in published)
    assert params.node_cores == largest == 48


def test_on_one_machine_a_cell_says_nothing_of_nodes() -> None:
    cell = GridParams().cells()[0]
    assert (cell.placement, cell.server_nodes, cell.client_nodes) == ("", 1, 0)
    assert cell.label(["placement", "server_nodes", "client_nodes"]) == ""


@pytest.mark.parametrize(
    "wrong",
    [{"engines": ["none", "none"]}, {"engines": ["onnx"]}, {"rounds": 1}, {"requests": 0},
     {"server_threads": 0}, {"timeout": 0}, {"sweep": "../x"}, {"net": "rnn"}],
)  # fmt: skip
def test_a_ladder_that_cannot_be_measured_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        make(LadderParams, wrong, "ladder.ipynb")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("server_thread", "server_threads"), ("client_threds", "client_threads"), ("sampels", "samples"), ("nett", "net")],
)
def test_an_unknown_key_is_refused_with_the_nearest_name_and_the_file(tmp_path: Path, wrong: str, right: str) -> None:
    path = write(tmp_path, f"{wrong}: 1\n")
    with pytest.raises(ConfigError) as refused:
        load_sweep(path)
    assert str(path) in str(refused.value)
    assert repr(wrong) in str(refused.value)
    assert f"did you mean {right!r}" in str(refused.value)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("samples: many", "samples"),
        ("samples: 2.5", "samples"),
        ("samples: 0", "samples"),
        ("batch: -1", "batch"),
        ("math_threads: 0", "math_threads"),
        ("rounds: 0", "rounds"),
        ("rounds: [1]", "rounds"),
        ("timeout: 0", "timeout"),
        ("timeout: .nan", "timeout"),
        ("timeout: .inf", "timeout"),
        ("timeout: 1.0e+12", "timeout"),
        ("service_time_ms: -1.0", "service_time_ms"),
        ("seed: x", "seed"),
        ("server_threads: 4", "server_threads"),
        ("server_threads: []", "server_threads"),
        ("server_threads: [1, 1]", "server_threads"),
        ("server_threads: [0]", "server_threads"),
        ("server_threads: [1, two]", "server_threads"),
        ("client_threads: [1, -2]", "client_threads"),
        ("client_threads: {a: 1}", "client_threads"),
        ("client_threads: [true]", "client_threads"),
        ("mode: grpc", "mode"),
        ("engine: padle", "engine"),
        ("net: cn", "net"),
        ("worker_kind: fiber", "worker_kind"),
        ("distribution: normal", "distribution"),
    ],
)
def test_a_wrong_type_or_value_is_refused_naming_the_key_and_the_file(tmp_path: Path, line: str, key: str) -> None:
    path = write(tmp_path, line)
    with pytest.raises(ConfigError) as refused:
        load_sweep(path)
    assert str(refused.value).startswith(f"{path}: {key}")
    assert "\n" not in str(refused.value)


def test_a_mistyped_choice_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'paddle'"):
        load_sweep(write(tmp_path, "engine: padle"))


def test_more_clients_than_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="client_threads: 8 clients cannot share 5 samples"):
        load_sweep(write(tmp_path, "samples: 5\nclient_threads: [1, 8]"))


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "just words", "", "\t: :"])
def test_what_is_not_name_value_lines_is_refused_naming_the_file(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        load_sweep(path)
    assert str(path) in str(refused.value)


def test_a_missing_file_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*missing\.yaml"):
        load_sweep(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cannot read .*binary\.yaml"):
        load_sweep(tmp_path / "binary.yaml")


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(ConfigError):
        load_sweep(write(tmp_path, f"net: !!python/object/apply:os.mkdir ['{target}']"))
    assert not target.exists()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.data(), st.sampled_from([SweepParams, GridParams]))
def test_random_values_are_accepted_or_refused_with_a_config_error(data: st.DataObject, kind: type[Any]) -> None:
    names = st.sampled_from(kind.__struct_fields__) | st.text(max_size=5) | st.integers()
    values = data.draw(st.dictionaries(names, ANYTHING, max_size=4))
    try:
        made = make(kind, values, "here")
    except ConfigError as error:
        refused = str(error)
    else:
        refused = ""
        assert all(getattr(made, str(name)) == value for name, value in values.items())
    assert not refused or refused.startswith("here: ")


@pytest.mark.parametrize("name", ["my file", "参数", "a.b-c_d", "7", "ä & ö (2)"])
def test_a_sweep_may_have_any_name_that_a_folder_may(name: str) -> None:
    assert GridParams(sweep=name).sweep == name


@pytest.mark.parametrize("sweep", ["", "a/b", "/abs", ".", ".."])
def test_a_sweep_name_must_be_a_plain_folder_name(sweep: str) -> None:
    with pytest.raises(ConfigError, match="sweep: must be a folder's name"):
        GridParams(sweep=sweep)


def test_a_sweep_hands_its_values_to_each_run(tmp_path: Path) -> None:
    sweep = SweepParams(engine="none", samples=40, client_threads=[3], batch=2, timeout=1.5)
    grid = sweep.grid(Axes("flask", 8, 1), 2, "name", "run-1", tmp_path)
    place = (grid.mode, grid.server_threads, grid.round, grid.sweep, grid.run)
    assert place == ("flask", 8, 2, "name", "run-1")
    assert (grid.engine, grid.samples, grid.client_threads, grid.batch, grid.timeout) == ("none", 40, [3], 2, 1.5)
    assert grid.outputs == str(tmp_path)


def test_the_project_is_found_from_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("notebooks", "params"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert project_root() == tmp_path
    assert model_folder(GridParams(net="gru")) == tmp_path / "outputs" / "models" / "gru"
    assert model_folder(GridParams(model="/somewhere")) == Path("/somewhere")
    assert model_folder(GridParams(model="outputs/mine")) == tmp_path / "outputs" / "mine"
    (tmp_path / "notebooks" / "here").mkdir()
    assert model_folder(GridParams(model="here")) == Path("here")


def test_outside_a_project_the_current_folder_is_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_root() == tmp_path


def test_an_engine_that_cannot_run_the_net_is_refused_before_anything_starts() -> None:
    wrong = (
        (SweepParams, {"engine": "folded"}),
        (GridParams, {"engine": "folded"}),
        (LadderParams, {"engines": ["folded"]}),
    )
    for kind, values in wrong:
        with pytest.raises(ConfigError, match=r"the folded engine runs cnn, .* a lstm; .*\(paddle, onnxruntime\)"):
            make(kind, {"net": "lstm", **values}, "here")
    assert LadderParams(net="lstm").engines == ["paddle", "onnxruntime", "none"]


YAML_TEXT = st.text(alphabet=st.sampled_from("abc:-[]{}'\"#&*!|>%@, \n\t0123456789~.\x00é"), max_size=80)
NAMES = st.sampled_from(["engine", "mode", "server_threads", "client_threads", "samples", "seed", "also", "x", "rates"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(YAML_TEXT | st.dictionaries(NAMES, VALUES, max_size=4).map(yaml.safe_dump))
def test_whatever_a_parameter_file_holds_it_is_read_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "odd.yaml"
        path.write_bytes(text.encode())
        with suppress(ConfigError):
            load_sweep(path)


@pytest.mark.parametrize(("line", "words"), [
    ("server_threads: [1000000000]", "server_threads: must be at most 1,024, got 1,000,000,000"),
    ("client_threads: [2000]", "client_threads: must be at most 1,024"),
    ("rounds: 1000000000", "rounds: must be at most 1,000, got 1,000,000,000"),
    ("extra_rounds: 5000", "extra_rounds: must be at most 1,000"),
    ("ladder_rounds: 5000", "ladder_rounds: must be at most 1,000"),
    ("math_threads: 4000", "math_threads: must be at most 1,024"),
    ("samples: 100000000000", "samples: must be at most 10,000,000"),
    ("passes: 100000000", "passes: must be at most 1,000,000"),
    ("batch: 10000000", "batch: must be at most"),
    ("rounds: 2\nseed: 1\nrounds: 3", r"'rounds' appears twice\n  in .*line 3, column 1"),
    ("also:\n- {engine: null, batch: 2, engine: folded}", "'engine' appears twice"),
    ("on_cluster: {rounds: 2, rounds: 3}", "'rounds' appears twice"),
    ("engine:\nmode: rpc", r"'engine' has no value\n  in .*line 1, column 1"),
    ("also:\n- {engine: , batch: 2}", "'engine' has no value"),
])  # fmt: skip
def test_numbers_beyond_all_use_and_keys_that_appear_twice_are_refused(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "own.yaml").write_text(line + "\n")
    with pytest.raises(ConfigError, match=words):
        load_sweep(tmp_path / "own.yaml")


@pytest.mark.parametrize("text", ["? [a, b]\n: 1\n", "also: !!map word\n", "? {a: 1}\n: 2\n"])
def test_keys_and_mappings_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"cannot read .*own.yaml: "):
        load_sweep(tmp_path / "own.yaml")


def test_more_cells_than_anybody_measures_are_refused(tmp_path: Path) -> None:
    many = list(range(1, 600))
    (tmp_path / "own.yaml").write_text(f"server_threads: {many}\nclient_threads: {many}\nrounds: 10\n")
    with pytest.raises(ConfigError, match=r"rounds: 3,588,010 measurements of cells in all, at most 1,000,000"):
        load_sweep(tmp_path / "own.yaml")


def test_a_yaml_merge_may_be_overruled(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("also:\n- &a {engine: null, batch: 2}\n- {<<: *a, batch: 4}\n")
    assert [part.batch for part in load_sweep(tmp_path / "own.yaml").parts()] == [1, 2, 4]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("seed: 0123", "83"), ("samples: 1:30", "90"), ("client_threads: [010]", "8"), ("timeout: 1:30.5", "90.5"),
     ("samples: 0x10", "16"), ("also:\n- {batch: 0o17, engine: none}", None)],
)  # fmt: skip
def test_a_number_that_yaml_reads_as_another_is_refused(written: str, meant: str | None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sweep(write(tmp_path, written))
    if meant:
        assert f"as {meant}; write that" in str(caught.value)
        assert "line 1" in str(caught.value)


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [("samples: 1_000", "samples", 1000), ("timeout: 2.5e+0", "timeout", 2.5), ("seed: +7", "seed", 7),
     ("service_time_ms: .5", "service_time_ms", 0.5), ("seed: 0", "seed", 0), ("seed: -1", "seed", -1)],
)  # fmt: skip
def test_numbers_as_people_write_them_are_taken(written: str, name: str, value: float, tmp_path: Path) -> None:
    assert getattr(load_sweep(write(tmp_path, written)), name) == value


def test_more_grids_may_be_given_beside_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "mode: rpc\nserver_threads: [1]\nalso:\n  - mode: flask\n")
    params = load_sweep(path, more=["{mode: socket, engine: folded, server_threads: [2, 4]}"])
    assert [part.modes for part in params.parts()] == [["rpc"], ["flask"], ["socket"]]
    assert params.parts()[-1].server_threads == [2, 4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mode: [", "cannot read --also 'mode: \\["),
        ("rpc", "--also: expected names and values as in '{mode: rpc"),
        ("{mode: rpx}", "also, entry 1: mode"),
        ("{rounds: 3}", "also, entry 1: 'rounds' belongs to the whole sweep|also, entry 1: rounds belongs"),
    ],
)
def test_a_grid_that_cannot_be_read_is_refused(words: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep(write(tmp_path, "mode: rpc\n"), more=[words]).parts()
