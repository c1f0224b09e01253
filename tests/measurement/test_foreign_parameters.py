"""What is said of a server of someone else in files and notebooks, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imdb_serving.errors import ConfigError
from imdb_serving.foreign.process import is_this_machine
from imdb_serving.measurement.parameters import GridParams, SweepParams, from_notebook, load_sweep

FILE = """
mode: http
server:
  command: gunicorn --workers {{ server_threads }} --bind {{ host }}:{{ port }} app:app
  ready: /health
  environment: {OMP_NUM_THREADS: "{{ math_threads }}", LEVEL: 3}
  directory: examples/servers
request:
  path: /predict
  body: '{"text": {{ text | tojson }}}'
  headers: {Authorization: "Bearer {{ env.TOKEN }}"}
answer: scores[1]
server_threads: [1, 2, 4]
math_threads: [1, 2]
client_threads: [1, 2]
"""


def load(folder: Path, text: str = FILE) -> SweepParams:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return load_sweep(path)


def test_a_file_says_all_of_a_server(tmp_path: Path) -> None:
    params = load(tmp_path)
    assert params.server_label == "gunicorn"
    assert params.server_environment == {"OMP_NUM_THREADS": "{{ math_threads }}", "LEVEL": "3"}
    assert params.engine == ""
    grids = params.every_grid()
    assert {(axes.mode, axes.server_threads, axes.math_threads) for _, axes in grids} == {
        ("http", threads, math) for threads in (1, 2, 4) for math in (1, 2)
    }
    part, axes = grids[0]
    cell = part.grid(axes, 1, "s", "r", tmp_path).cells()[0]
    assert (cell.mode, cell.server, cell.engine, cell.worker_kind) == ("http", "gunicorn", "", "")
    assert cell.label().startswith("http, gunicorn, 1 server thread, 1 client, batch 1")


def test_grids_beside_it_are_of_our_own_servers(tmp_path: Path) -> None:
    params = load(tmp_path, FILE + "also: [{mode: rpc, engine: none, server_threads: [1], math_threads: 1}]")
    own, ours = params.parts()
    assert (own.modes, ours.modes, ours.server_command) == (["http"], ["rpc"], "")
    part, axes = params.every_grid()[-1]
    assert part.grid(axes, 1, "s", "r", tmp_path).cells()[0].server == ""


def test_two_servers_beside_each_other_share_the_request(tmp_path: Path) -> None:
    more = """
also:
  - server: {command: "granian --port {{ port }} --workers {{ server_threads }} app:app"}
    math_threads: 1
"""
    first, second = load(tmp_path, FILE + more).parts()
    assert (first.server_label, second.server_label) == ("gunicorn", "granian")
    assert second.request_path == "/predict"


def test_an_entry_may_measure_more_of_a_server_that_is_named_before(tmp_path: Path) -> None:
    """As the verdict says where the best lies at the edge."""
    more = """
also:
  - server: {name: second, command: "granian --port {{ port }} --workers {{ server_threads }} app:app"}
    math_threads: 1
  - {server: {name: second}, server_threads: [8], math_threads: 1}
  - {server: {name: gunicorn}, server_threads: [8]}
"""
    parts = load(tmp_path, FILE + more).parts()
    assert [part.server_label for part in parts] == ["gunicorn", "second", "second", "gunicorn"]
    assert parts[1].description == parts[2].description
    assert parts[0].description == parts[3].description
    with pytest.raises(ConfigError, match=r"entry 1: server\.name: no server before is called 'third'"):
        load(tmp_path, FILE + "also: [{server: {name: third}, server_threads: [8]}]")


@pytest.mark.parametrize(
    ("command", "label"),
    [
        ("gunicorn -b :{{ port }} app:app", "gunicorn"), ("/usr/bin/granian {{ port }}", "granian"),
        ("{{ python }} -m uvicorn --port {{ port }} app:app", "uvicorn"),
        ("python serve_cnn.py {{ port }}", "serve_cnn"),
        ("env A=1 waitress-serve --port={{ port }} app:app", "env"),
    ],
)  # fmt: skip
def test_a_server_without_a_name_is_called_by_its_program(command: str, label: str) -> None:
    assert GridParams(mode="http", server_command=command, server_threads=1).server_label == label


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("command: gunicorn", "comand: gunicorn"), "server: unknown parameter 'comand'; did you mean 'command'"),
        (("path: /predict", "paht: /predict"), "request: unknown parameter 'paht'; did you mean 'path'"),
        (("{{ host }}", "{{ hots }}"), "server.command: unknown name 'hots'; did you mean 'host'"),
        (("{{ text |", "{{ txt |"), "request.body: unknown name 'txt'; did you mean 'text'"),
        (("{{ env.TOKEN }}", "{{ token }}"), "request.headers.Authorization: unknown name 'token'"),
        (("{{ math_threads }}", "1"), "math_threads: the grid varies it .*command does not use it, so all rows"),
        (("--workers {{ server_threads }} ", ""), "server_threads: the grid varies it .*command does not use it"),
        (("{{ host }}:{{ port }}", "x"), "server.command: it does not use {{ port }}"),
        (("--bind", "'"), "server.command: No closing quotation"),
        (("answer: scores[1]", "answer: 'scores[1'"), "answer: .*JMESPath"),
        (("ready: /health", "ready: health"), "server.ready: expected a path"),
        (("path: /predict", "path: 'pre dict'"), "request.path: expected a path"),
        (("LEVEL: 3", "LEVEL: yes"), "server.environment.LEVEL: expected a text or a number, got True"),
        (("mode: http", "mode: rpc"), "server: no grid has mode http"),
        (("answer: scores[1]", "worker_kind: thread"), "worker_kind: mode http has none of it"),
        (("answer: scores[1]", "http_client: curl"), "http_client: mode http has none of it"),
        (("answer: scores[1]", "batch: 4"), "request.body: with a batch of 4 it has to use `samples`"),
        (("answer: scores[1]", "also: [{server: {ready: /x}, math_threads: 1}]"), "two servers are called 'gunicorn'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, changed: tuple[str, str], words: str) -> None:
    assert changed[0] in FILE
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, FILE.replace(*changed))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "needs server.command, or server.url"),
        ({"server_url": "http://192.0.2.1:80"}, "192.0.2.1 is not this machine.*--remote"),
        ({"server_url": "http://nobody.invalid"}, "nobody.invalid is not this machine"),
        ({"server_url": "ftp://127.0.0.1"}, "server.url: cannot use the endpoint"),
        ({"server_url": "http://127.0.0.1", "request_headers": {"A": "x\r\nB: y"}}, ""),
        ({"server_url": "http://127.0.0.1", "request_headers": {"A\r\nB": "y"}}, "lines of ASCII"),
        ({"server_url": "http://127.0.0.1", "server_ready_seconds": 0.0}, "ready_seconds"),
        ({"server_url": "http://127.0.0.1", "request_method": "post"}, "request.method"),
        ({"server_url": "http://127.0.0.1", "server_name": "a/b"}, "server.name"),
        ({"server_url": "http://127.0.0.1", "protocol": "oipp"}, "protocol: unknown value 'oipp'; did you mean 'oip'"),
        ({"server_url": "http://127.0.0.1", "protocol": "oip"}, "server.model: .* name it"),
        ({"server_url": "http://127.0.0.1", "protocol": "oip", "server_model": "m", "request_body": "x"},
         "leave out one"),
        ({"server_url": "http://127.0.0.1", "request_binary": True}, "request.binary"),
        ({"server_url": "http://127.0.0.1", "data": "none.csv", "engine": ""}, "data: there is no file .*none.csv"),
        ({"server_url": "http://127.0.0.1", "protocol": "oip-grpc", "server_model": "m"}, "expected grpc or grpcs://"),
        ({"server_url": "grpc://127.0.0.1:1"}, "expected http or https://"),
        ({"server_url": "grpc://192.0.2.1:1", "protocol": "oip-grpc", "server_model": "m"}, "is not this machine"),
        ({"server_url": "grpc://127.0.0.1:1", "protocol": "oip-grpc"}, "server.model: .* name it"),
        ({"server_url": "grpc://127.0.0.1:1", "protocol": "oip-grpc", "server_model": "m", "server_ready": "/x"},
         "server.ready: it is of HTTP"),
        ({"server_url": "grpc://127.0.0.1:1", "protocol": "oip-grpc", "server_model": "m",
          "request_headers": {"grpc-timeout": "1"}}, "request.headers.grpc-timeout"),
    ],
)  # fmt: skip
def test_a_run_is_checked_as_well(values: dict[str, Any], words: str) -> None:
    if not words:
        GridParams(mode="http", server_threads=1, **values)  # rendered later, where it is refused
        return
    with pytest.raises(ConfigError, match=words):
        GridParams(mode="http", server_threads=1, **values)


def test_another_machine_is_loaded_only_when_one_says_so() -> None:
    params = GridParams(mode="http", server_threads=1, server_url="http://192.0.2.1:80", server_remote=True)
    assert params.server_label == "192.0.2.1:80"


def test_a_server_that_runs_has_one_count(tmp_path: Path) -> None:
    text = "mode: http\nserver: {url: 'http://127.0.0.1:1'}\nserver_threads: [1, 2]\n"
    with pytest.raises(ConfigError, match=r"server_threads: the grid varies it .*runs already, with one count.*\[1\]"):
        load(tmp_path, text)


def test_texts_of_ones_own_are_for_all_of_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("said,kind\ngood,1\n", encoding="utf-8")
    more = "also: [{mode: http, server: {url: 'http://127.0.0.1:1'}, engine: '', server_threads: [1]}, {mode: flask}]\n"
    columns = "text_column: said\nlabel_column: kind\n"
    params = load(tmp_path, f"mode: rpc\nengine: none\ndata: {tmp_path / 'own.csv'}\n{columns}{more}")
    files = {part.text_file for part in params.parts()}
    assert [(file.path.name, file.columns) for file in files if file] == [("own.csv", ("said", "kind"))]
    with pytest.raises(ConfigError, match="data belongs to the whole sweep"):
        load(tmp_path, f"mode: rpc\nengine: none\nalso: [{{data: {tmp_path / 'own.csv'}}}]\n")
    with pytest.raises(ConfigError, match="text_column: the packaged reviews have no columns"):
        load(tmp_path, "mode: rpc\nengine: none\ntext_column: said\n")


def test_a_notebook_takes_the_same_by_whole_names() -> None:
    """papermill passes a mapping as text, or as it is with -y."""
    given = {
        "mode": "http", "server_command": "run {{ port }}", "server_threads": "2", "answer": "scores[1]",
        "server_environment": '{"A": "1"}', "request_headers": {"B": "2"}, "engine": "",
    }  # fmt: skip
    params = from_notebook(GridParams, "grid.ipynb", **given)
    assert (params.server_environment, params.request_headers, params.engine) == ({"A": "1"}, {"B": "2"}, "")
    with pytest.raises(ConfigError, match="server_environment"):
        from_notebook(GridParams, "grid.ipynb", **given | {"server_environment": "A=1"})
    with pytest.raises(ConfigError, match="a command or URL is for mode http"):
        from_notebook(GridParams, "grid.ipynb", **given | {"mode": "rpc"})


def test_our_own_servers_have_the_published_engine_where_none_is_named() -> None:
    assert (GridParams().engine, SweepParams().engine, GridParams(engine="none").engine) == ("paddle", "paddle", "none")


@pytest.mark.parametrize(
    ("host", "here"), [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("192.0.2.1", False)]
)
def test_this_machine_is_known(host: str, here: bool) -> None:
    assert is_this_machine(host) is here
