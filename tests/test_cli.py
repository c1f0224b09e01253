"""The commands, as a user meets them: results, messages and exit codes."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec
import pytest
from waiting import wait_until

from imdb_serving.cell import Cell, Figures
from imdb_serving.cli import main, sweep
from imdb_serving.errors import DataError, ServerUnavailable
from imdb_serving.experiment.plan import read_plan
from imdb_serving.experiment.sweep import alone
from imdb_serving.measurement.deployment import start_round
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.measure import judged
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.report import frames, notebooks
from imdb_serving.report.verdict import verdict
from imdb_serving.server_process import ServerProcess

SAMPLES = 30
ROOT = Path(__file__).parents[1]


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


def run(*arguments: str | Path, stdin: bytes = b"") -> Done:
    """Run a command in this process; an exception that escapes it fails the test."""
    out, err = io.StringIO(), io.StringIO()
    given = patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    with redirect_stdout(out), redirect_stderr(err), given, pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())


def shell(*arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None) -> Done:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "imdb_serving", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=240, check=False, cwd=cwd)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def lines(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same reviews as word ids and as text."""
    folder = tmp_path_factory.mktemp("lines")
    vocabulary = bundle / "serving_server_model" / "imdb.vocab"
    for kind in ("ids", "text"):
        done = run("data", "--samples", str(SAMPLES), "--format", kind, "--out", folder / kind, "--vocab", vocabulary)
        assert (done.code, done.out) == (0, "")
        assert f"wrote {SAMPLES} held-out reviews" in done.err
    return {kind: (folder / kind).read_bytes() for kind in ("ids", "text")}


class Clients:
    """The three published clients of one server."""

    NAMES = ("client", "client-batch", "client-multi")

    def __init__(self, conf: Path, endpoint: str, folder: Path) -> None:
        self.conf, self.endpoint, self.folder = conf, endpoint, folder

    def predict(self, name: str, data: bytes, number: int = 4, *options: str) -> Done:
        arguments: list[str | Path] = [name, self.conf]
        if name == "client-multi":
            (self.folder / "test.data").write_bytes(data)
            arguments.append(self.folder / "test.data")
        if name != "client":
            arguments.append(str(number))
        return run(*arguments, "--endpoint", self.endpoint, *options, stdin=data)


@pytest.fixture
def clients(bundle: Path, paddle_server: ServerProcess, tmp_path: Path) -> Clients:
    return Clients(bundle / "inference.conf", paddle_server.endpoint, tmp_path)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An endpoint at which nothing listens, while nobody else can take it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{taken.getsockname()[1]}"


# --- data


def test_ids_and_text_are_the_same_reviews_in_the_published_formats(lines: dict[str, bytes], bundle: Path) -> None:
    ids, texts = (lines[kind].decode().splitlines() for kind in ("ids", "text"))
    assert len(ids) == len(texts) == SAMPLES
    for line, text in zip(ids, texts, strict=True):
        count, *words, label = line.split(" ")
        assert int(count) == len(words)
        assert text.endswith(f" | {label}")
        assert label in "01"


def test_data_is_the_same_for_a_seed_and_another_for_another(tmp_path: Path, lines: dict[str, bytes]) -> None:
    for name, seed in (("a", "2020"), ("b", "7")):
        run("data", "--samples", str(SAMPLES), "--format", "text", "--out", tmp_path / name, "--seed", seed)
    assert (tmp_path / "a").read_bytes() == lines["text"]
    assert (tmp_path / "b").read_bytes() != lines["text"]


@pytest.mark.parametrize("kind", ["ids", "text"])
def test_data_from_a_file_are_lines_of_that_file(kind: str, tmp_path: Path, lines: dict[str, bytes]) -> None:
    source = tmp_path / "source"
    source.write_bytes(lines[kind])
    done = run("data", "--samples", "4", "--format", kind, "--source", source, "--out", tmp_path / "deep" / "out")
    assert (done.code, done.out) == (0, "")
    written = (tmp_path / "deep" / "out").read_bytes().splitlines()
    assert len(written) == 4
    assert set(written) <= set(lines[kind].splitlines())


def test_more_samples_than_reviews_repeat_and_say_so(tmp_path: Path, lines: dict[str, bytes]) -> None:
    (tmp_path / "source").write_bytes(lines["ids"])
    done = run("data", "--samples", "50", "--source", tmp_path / "source", "--out", tmp_path / "out")
    assert done.code == 0
    assert "some are repeated" in done.err
    assert len((tmp_path / "out").read_bytes().splitlines()) == 50


def test_ids_cannot_be_written_as_text(tmp_path: Path, lines: dict[str, bytes]) -> None:
    (tmp_path / "source").write_bytes(lines["ids"])
    done = run("data", "--format", "text", "--source", tmp_path / "source", "--out", tmp_path / "out")
    assert done.code == 2
    assert "holds word ids only" in done.err
    assert not (tmp_path / "out").exists()


# --- the three clients


@pytest.fixture(scope="module")
def expected(
    bundle: Path, paddle_server: ServerProcess, lines: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """What one client, one sample a request, says of the word ids."""
    folder = tmp_path_factory.mktemp("expected")
    done = Clients(bundle / "inference.conf", paddle_server.endpoint, folder).predict("client", lines["ids"])
    assert done.code == 0, done.err
    return done.out


def test_a_result_is_a_probability_and_the_label_a_sample(expected: str, lines: dict[str, bytes]) -> None:
    results = expected.splitlines()
    assert all(re.fullmatch(r"[01]\.\d{6} [01]", result) for result in results)
    assert [result[-1] for result in results] == [line[-1] for line in lines["ids"].decode().splitlines()]
    assert len({result[:-2] for result in results}) > SAMPLES // 2


@pytest.mark.parametrize("kind", ["ids", "text"])
@pytest.mark.parametrize(
    ("name", "number"),
    [("client", 0), ("client-batch", 1), ("client-batch", 4), ("client-multi", 1), ("client-multi", 4)],
)
def test_all_clients_write_the_same_bytes(
    name: str, number: int, kind: str, clients: Clients, lines: dict[str, bytes], expected: str
) -> None:
    done = clients.predict(name, lines[kind], number)
    assert (done.code, done.out) == (0, expected)
    assert f"on {SAMPLES} samples" in done.err
    assert "client_infer" in done.err


def test_results_stand_in_input_order(clients: Clients, lines: dict[str, bytes], expected: str) -> None:
    reversed_lines = b"".join(reversed(lines["ids"].splitlines(keepends=True)))
    done = clients.predict("client-multi", reversed_lines, 4)
    assert done.out.splitlines() == expected.splitlines()[::-1]


def test_blank_lines_and_crlf_are_no_samples(clients: Clients, lines: dict[str, bytes], expected: str) -> None:
    done = clients.predict("client", b"\n" + lines["ids"].replace(b"\n", b"\r\n") + b"  \r\n")
    assert (done.code, done.out) == (0, expected)


def test_more_clients_than_samples(clients: Clients, lines: dict[str, bytes], expected: str) -> None:
    first = b"".join(lines["ids"].splitlines(keepends=True)[:2])
    done = clients.predict("client-multi", first, 4)
    assert (done.code, done.out.splitlines()) == (0, expected.splitlines()[:2])


def test_nothing_but_results_reaches_standard_output(clients: Clients, lines: dict[str, bytes], expected: str) -> None:
    done = shell("client", clients.conf, "--endpoint", clients.endpoint, stdin=lines["ids"])
    assert (done.code, done.out) == (0, expected)


BROKEN = {
    4: b"3 1 2 0",  # a word too few
    9: b"hello | 1",
    10: b"1 99999999 1",  # no such word
    15: b"2 1 2 7",  # no such label
    SAMPLES: b"1 -5 0",
}


@pytest.mark.parametrize("name", Clients.NAMES)
def test_broken_lines_fail_alone_and_are_named(
    name: str, clients: Clients, lines: dict[str, bytes], expected: str
) -> None:
    content = lines["ids"].splitlines()
    for number, line in BROKEN.items():
        content[number - 1] = line
    done = clients.predict(name, b"\n".join(content) + b"\n")
    assert done.code == 1
    kept = [line for number, line in enumerate(expected.splitlines(), start=1) if number not in BROKEN]
    assert done.out.splitlines() == kept
    source = clients.folder / "test.data" if name == "client-multi" else "<stdin>"
    named = re.findall(rf"^failed: {re.escape(str(source))}:([\d,]+): .+", done.err, re.MULTILINE)
    assert sorted(int(number) for numbers in named for number in numbers.split(",")) == sorted(BROKEN)
    assert f"{len(BROKEN)} of {SAMPLES} samples failed" in done.err
    assert "Traceback" not in done.err


def test_broken_text_fails_alone(clients: Clients, lines: dict[str, bytes], expected: str) -> None:
    content = lines["text"].splitlines()
    content[4], content[7] = b"no bar here", b"caf\xe9 | 1"
    done = clients.predict("client-batch", b"\n".join(content), 4)
    assert done.code == 1
    assert done.out.splitlines() == [line for number, line in enumerate(expected.splitlines()) if number not in (4, 7)]
    assert "<stdin>:5: no bar" in done.err
    assert "<stdin>:8: the review is not valid UTF-8" in done.err


def test_a_file_of_broken_lines_writes_nothing_and_names_every_one(clients: Clients) -> None:
    done = clients.predict("client-batch", b"1 5 7\n" * 50, 4)
    assert (done.code, done.out) == (1, "")
    assert "50 of 50 samples failed" in done.err
    assert re.search(r"^failed: <stdin>:1-50: the label is '7'", done.err, re.MULTILINE)


@pytest.mark.parametrize("name", Clients.NAMES)
def test_no_server_is_said_soon_and_clearly(
    name: str, bundle: Path, tmp_path: Path, nowhere: str, lines: dict[str, bytes]
) -> None:
    begin = monotonic()
    done = Clients(bundle / "inference.conf", nowhere, tmp_path).predict(
        name, lines["ids"], 4, "--timeout", "0.5", "--wait", "0"
    )
    assert monotonic() - begin < SAMPLES * 0.5
    assert done.code not in (0, None)
    assert done.out == ""
    assert nowhere in done.err
    assert 'start one with "imdb-serving serve' in done.err
    assert "Traceback" not in done.err


def refused(done: Done, *words: str) -> None:
    """An error of the user's: exit code 2, its one line last, nothing on standard output, no traceback."""
    assert done.code == 2, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    last = done.err.rstrip("\n").splitlines()[-1]
    assert last.startswith(("imdb-serving: ", "Error: ")), done.err
    for word in words:
        assert word in last, done.err


@pytest.mark.parametrize("name", Clients.NAMES)
def test_a_missing_conf_is_refused(name: str, tmp_path: Path) -> None:
    refused(Clients(tmp_path / "none.conf", "tcp://127.0.0.1:1", tmp_path).predict(name, b"1 2 0\n"), "none.conf")


def test_a_conf_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text("feed_var {", encoding="utf-8")
    refused(Clients(tmp_path / "own.conf", "tcp://127.0.0.1:1", tmp_path).predict("client", b"1 2 0\n"), "own.conf")


def test_no_sample_is_refused(bundle: Path, tmp_path: Path) -> None:
    refused(Clients(bundle / "inference.conf", "tcp://127.0.0.1:1", tmp_path).predict("client", b"\n"), "no review")


def test_missing_data_are_refused(bundle: Path, tmp_path: Path) -> None:
    refused(run("client-multi", bundle / "inference.conf", tmp_path / "none", "2"), "cannot read", "none")
    refused(run("client-multi", bundle / "inference.conf", tmp_path, "2"), "cannot read")


def test_text_without_a_vocabulary_is_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inference.conf").write_bytes((bundle / "inference.conf").read_bytes())
    lone = Clients(tmp_path / "inference.conf", "tcp://127.0.0.1:1", tmp_path)
    refused(lone.predict("client", b"Great! | 1\n"), "needs a vocabulary", "--vocab")


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://127.0.0.1", "https://127.0.0.1:80"])
def test_an_endpoint_that_is_none_is_said(endpoint: str, bundle: Path, tmp_path: Path) -> None:
    done = Clients(bundle / "inference.conf", endpoint, tmp_path).predict("client", b"1 2 0\n")
    assert done.code not in (0, None)
    assert repr(endpoint) in done.err
    assert "Traceback" not in done.err


# --- arguments that are refused


def wrong_arguments(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    return {
        "serve: engine": (["serve", "--engine", "non"], ["non", "did you mean 'none'"]),
        "serve: no model": (["serve", "--port", "0"], ["needs a model"]),
        "serve: missing model": (["serve", f"{folder}/none"], ["no model at", "none"]),
        "serve: empty folder": (["serve", f"{folder}"], ["missing from the model bundle"]),
        "serve: threads": (["serve", "--engine", "none", "--server-threads", "0"], ["--server-threads"]),
        "serve: port": (["serve", "--engine", "none", "--port", "70000"], ["--port"]),
        "serve: host": (["serve", "--engine", "none", "--host", "no such host", "--port", "0"], ["no such host"]),
        "serve: time": (["serve", "--engine", "simulated", "--service-time-ms", "nan"], ["service_time_ms"]),
        "train: net": (["train", "--net", "cn", "--out", f"{folder}/m"], ["'cn'", "did you mean 'cnn'"]),
        "train: source": (["train", "--source", f"{folder}/none", "--out", f"{folder}/m"], ["none"]),
        "train: epochs": (["train", "--epochs", "0"], ["--epochs"]),
        "sweep: missing": (["sweep", f"{folder}/none.yaml"], ["none.yaml"]),
        "sweep: key": (["sweep", f"{folder}/key.yaml"], ["key.yaml", "did you mean 'samples'"]),
        "sweep: type": (["sweep", f"{folder}/type.yaml"], ["type.yaml", "samples"]),
        "report: no ledger": (["report", f"{folder}"], ["ledger.jsonl", "imdb-serving sweep"]),
        "report: missing": (["report", f"{folder}/none"], ["ledger.jsonl"]),
        "data: source": (["data", "--source", f"{folder}/none", "--out", f"{folder}/d"], ["none"]),
        "data: vocabulary": (["data", "--vocab", f"{folder}/none", "--out", f"{folder}/d"], ["vocabulary", "none"]),
        "data: samples": (["data", "--samples", "0", "--out", f"{folder}/d"], ["--samples"]),
        "data: out below a file": (["data", "--samples", "1", "--out", f"{folder}/key.yaml/d"], ["key.yaml"]),
        "client: timeout": (["client", "x.conf", "--timeout", "0"], ["--timeout"]),
        "client: timeout too long": (["client", "x.conf", "--timeout", "1e12"], ["--timeout"]),
        "client: timeout is no number": (["client", "x.conf", "--timeout", "nan"], ["--timeout"]),
        "client: format": (["client", "x.conf", "--format", "csv"], ["--format"]),
        "client-batch: batch": (["client-batch", "x.conf", "0"], ["BATCH"]),
        "client-multi: clients": (["client-multi", "x.conf", "x.data", "none"], ["CLIENTS"]),
        "no such command": (["serv"], ["serv"]),
    }


@pytest.mark.parametrize("case", wrong_arguments(Path()))
def test_wrong_arguments_are_refused_with_one_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.yaml").write_text("sampels: 1\n", encoding="utf-8")
    (tmp_path / "type.yaml").write_text("samples: many\n", encoding="utf-8")
    arguments, words = wrong_arguments(tmp_path)[case]
    # A server sets signal handlers, so it gets a process of its own.
    refused(shell(*arguments) if arguments[0] == "serve" else run(*arguments), *words)
    assert not (tmp_path / "m").exists()


def test_a_model_of_another_net_is_not_written_over(bundle: Path) -> None:
    refused(run("train", "--net", "gru", "--out", bundle, "--if-missing"), "holds a cnn model, not gru")


def test_a_sound_model_is_kept(bundle: Path) -> None:
    before = (bundle / "serving_server_model" / "model_card.json").stat().st_mtime_ns
    done = run("train", "--net", "cnn", "--out", bundle, "--if-missing")
    assert (done.code, done.out) == (0, "")
    assert (bundle / "serving_server_model" / "model_card.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_explains_itself(name: str) -> None:
    done = run(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert "Example:" in done.out
    assert all(option.help for option in main.commands[name].params if option.param_type_name == "option")


# --- sweep and report

TINY = 'engine: "none"\nserver_threads: [1, 2]\nclient_threads: [1, 2]\nsamples: 20\nrounds: 1\ntwin: false\n'


def check_report(folder: Path, cells: int) -> None:
    assert len((folder / "cells.csv").read_text(encoding="utf-8").splitlines()) == 1 + cells
    assert not (folder / "figures").exists()
    page = (folder / "report.html").read_text(encoding="utf-8")
    loaded = re.findall(r"""<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert not [address for address in loaded if address and not address.startswith("data:")]
    assert not re.search(r"@import|url\(\s*['\"]?https?:", page)
    assert len(re.findall(r'<figure class="chart', page)) >= 3


def notebook_of(folder: Path, servers: int) -> Path:
    """Where a sweep of TINY puts the notebook of a server-thread count."""
    cell = Cell(
        engine="none", net="", server_threads=servers, client_threads=1, worker_kind="thread", endpoint="tcp", samples=0
    )
    return folder / "notebooks" / f"grid-r1-{cell.slug}.ipynb"


@pytest.mark.slow
def test_a_sweep_measures_every_cell_and_writes_the_report(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    command = ("sweep", tmp_path / "tiny.yaml", "--outputs", tmp_path / "out")
    done = shell(*command, cwd=ROOT)
    assert done.code == 0, done.err
    assert done.out.startswith("No verdict: one round has no interval")
    folder = tmp_path / "out" / "tiny"
    check_report(folder, 4 + 2)  # two calibrations
    names = {notebook_of(folder, servers).name for servers in (1, 2)}
    assert {path.name for path in (folder / "notebooks").iterdir()} == names | {"report.ipynb"}
    assert str(folder / "report.html") in done.err
    written = (folder / "ledger.jsonl").read_bytes()
    again = shell(*command, cwd=ROOT)
    assert "4 of them done already" in again.err
    assert (folder / "ledger.jsonl").read_bytes() == written  # nothing was measured twice
    more = shell(*command, "--rounds", "2", cwd=ROOT)
    assert "4 of them done already" in more.err
    rows = [row for row in Ledger(folder).rows() if row.cell.series == "grid"]
    assert len({(row.key, row.round) for row in rows}) == len(rows) in {8, 12}  # noise may ask for one round more
    assert len({row.run for row in rows}) == 1


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    done = shell("sweep", ROOT / "params" / "default.yaml", "--outputs", tmp_path / "out", "--dry-run", cwd=ROOT)
    assert done.code == 0, done.err
    cells, time = r"sweep default: \d+ cells \(\d+ in each of \d rounds\)", r"\d+ grid runs, about \d+ min"
    more = r"where noise asks for 1 more round: about (a minute|\d+ minutes) more"
    assert re.search(f"{cells}\n{time}.*\n{more}", done.out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("at", ["out", "out/tiny"])
def test_outputs_at_a_dangling_link_are_refused(tmp_path: Path, at: str) -> None:
    """Its target used to be made."""
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (tmp_path / at).parent.mkdir(exist_ok=True)
    (tmp_path / at).symlink_to(tmp_path / "nowhere")
    done = shell("sweep", tmp_path / "tiny.yaml", "--outputs", tmp_path / "out", cwd=ROOT)
    assert (done.code, done.out) == (2, "")
    assert f"{at} is a link to {tmp_path}/nowhere, which is not there" in done.err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_connection_file(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("samples: ", "passes: 100000\nsamples: "), encoding="utf-8")
    (temporary := tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "imdb_serving", "sweep", tmp_path / "tiny.yaml", "--outputs", tmp_path / "out"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        assert wait_until(lambda: any(temporary.rglob("*.json")), 60)
        process.kill()
    assert wait_until(lambda: not any(temporary.rglob("*")), 30), list(temporary.rglob("*"))


def measured(params: GridParams, **changes: Any) -> None:
    """What a grid run would leave in the ledger, made up."""
    ledger = Ledger(Path(params.outputs) / params.sweep)
    around = start_round(params, ledger)
    for cell in params.cells():
        row = msgspec.structs.replace(around.row(cell), answered=20, requests=20, **changes)
        ledger.append(judged(row), [])


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Run a sweep of TINY whose report is only noted down, in `reports`."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    return lambda: run("sweep", tmp_path / "tiny.yaml", "--outputs", tmp_path / "out")


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    written: list[Path] = []
    monkeypatch.setattr(sweep, "write_report", lambda folder, *_, **__: written.append(folder))
    return written


def test_a_sweep_goes_on_after_a_run_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[[], Any], reports: list[Path]
) -> None:
    folder, broken = tmp_path / "out" / "tiny", {1}

    def execute(params: GridParams, out: Path, _kernels: object) -> None:
        if params.server_threads in broken:
            raise OSError(f"cannot write {out}")
        measured(params)

    monkeypatch.setattr(notebooks, "execute_grid", execute)
    done = tiny()
    assert done.code == 1
    assert f"FAILED {notebook_of(folder, 1).stem}: " in done.err + done.out
    assert "2 of" in done.err
    rows = [row for row in Ledger(folder).rows() if row.cell.series == "grid"]
    assert sorted((row.cell.server_threads, row.status == "failed") for row in rows) == [
        (1, True), (1, True), (2, False), (2, False),
    ]  # fmt: skip
    assert reports == [folder]
    broken.clear()
    done = tiny()  # what failed, and nothing else, is tried again
    assert done.code == 0, done.err
    assert "2 of them done already" in done.err


def test_a_sweep_of_which_every_run_fails_has_a_report_that_says_so(tmp_path: Path, tiny: Callable[[], Any]) -> None:
    folder = tmp_path / "out" / "tiny"
    for servers in (1, 2):
        notebook_of(folder, servers).mkdir(parents=True)
    done = tiny()
    assert done.code == 1
    assert "4 of 4 cells failed" in done.err
    assert "No verdict: 4 measurements failed, and none succeeded" in done.out
    assert (folder / "report.html").is_file()


def test_a_cell_that_fails_makes_the_sweep_fail(
    monkeypatch: pytest.MonkeyPatch, tiny: Callable[[], Any], reports: list[Path]
) -> None:
    """The notebook runs through, but what it measured is no measurement: the exit code must tell."""
    monkeypatch.setattr(notebooks, "execute_grid", lambda params, *_: measured(params, error="gone", failed_requests=3))
    done = tiny()
    assert done.code == 1
    assert "3 of 20 requests got no answer" in done.err
    assert len(reports) == 1


def test_a_report_of_failed_cells_alone_says_that_nothing_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    params = GridParams(engine="none", samples=4, client_threads=[1], outputs=str(tmp_path), sweep="bad", run="one")
    ledger = Ledger(tmp_path / "bad")
    ledger.append(start_round(params, ledger).failed(params.cell(1), ServerUnavailable("gone")), [])
    done = run("report", tmp_path / "bad")
    assert done.code == 0, done.err
    assert "No verdict: 1 measurement failed, and none succeeded. The first: ServerUnavailable: gone" in done.out
    assert (tmp_path / "bad" / "report.html").is_file()


def test_cells_with_wrong_answers_make_the_sweep_fail(
    monkeypatch: pytest.MonkeyPatch, tiny: Callable[[], Any], reports: list[Path]
) -> None:
    """A faster wrong answer is no speed."""
    monkeypatch.setattr(notebooks, "execute_grid", lambda params, *_: measured(params, difference=0.2))
    done = tiny()
    assert done.code == 1
    assert "an answer is 2.0e-01 from the bare engine's" in done.err
    assert len(reports) == 1


def test_a_ladder_that_fails_does_not_lose_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[[], Any], reports: list[Path]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DataError("rung flask-dev: gone")

    monkeypatch.setattr(notebooks, "execute_grid", lambda params, *_: measured(params))
    monkeypatch.setattr(notebooks, "execute", fail)
    (tmp_path / "tiny.yaml").write_text(TINY + "ladder_rounds: 2\n", encoding="utf-8")
    done = tiny()
    assert done.code == 1
    assert "FAILED ladder: rung flask-dev: gone" in done.err
    assert reports == [tmp_path / "out" / "tiny"]


def test_noise_has_a_whole_round_measured_more_and_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[[], Any], reports: list[Path]
) -> None:
    rounds: list[int] = []

    def disturbed(params: GridParams, _out: Path, _kernels: object) -> None:
        rounds.append(params.round)
        busy = {"figures": Figures(wall_s=1.0, foreign_cores=0.9)} if params.round in noisy else {}
        measured(params, **busy)

    monkeypatch.setattr(notebooks, "execute_grid", disturbed)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("rounds: 1", "rounds: 3"), encoding="utf-8")
    noisy = {2}
    done = tiny()
    assert done.code == 0, done.err
    assert "4 cells unsettled" in done.err
    assert "other processes used 0.9 cores meanwhile" in done.err
    assert sorted(rounds) == [1, 1, 2, 2, 3, 3, 4, 4]
    plan = read_plan(tmp_path / "out" / "tiny")
    assert plan is not None
    assert plan.rounds == 4
    rounds.clear()
    assert tiny().code == 0
    assert rounds == [], "what is settled is not measured again"


def test_a_search_measures_part_of_the_grid_says_so_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[[], Any], reports: list[Path]
) -> None:
    """Throughput has one peak, at 4 server threads and 12 clients of up to 16."""
    measured_cells: list[tuple[int, int, int]] = []

    def execute(params: GridParams, _out: Path, _kernels: object) -> None:
        ledger = Ledger(Path(params.outputs) / params.sweep)
        around = start_round(params, ledger)
        if params.round == stop_at:
            raise KeyboardInterrupt
        for cell in params.cells():
            if cell.series == "grid":
                measured_cells.append((params.round, cell.server_threads, cell.client_threads))
            servers, clients = cell.server_threads, cell.client_threads
            noise = 1 + 0.001 * ((5 * params.round + 3 * servers + clients) % 7 - 3)
            rate = 1000.0 * noise / (1 + 0.1 * abs(servers - 4) + 0.05 * abs(clients - 12))
            figures = Figures(wall_s=1.0, throughput=rate, request_rate=rate, p99_us=1000.0, server_cpu_us=100.0)
            row = msgspec.structs.replace(around.row(cell), answered=20, requests=20, figures=figures, status="ok")
            ledger.append(row, [])

    monkeypatch.setattr(notebooks, "execute_grid", execute)
    axes = "server_threads: [1, 2, 4, 6]\nclient_threads: [1, 2, 4, 6, 8, 12, 14, 16]\n"
    (tmp_path / "tiny.yaml").write_text(f'engine: "none"\n{axes}samples: 20\nsearch: true\n', encoding="utf-8")
    stop_at = 2
    done = tiny()
    assert done.code == 130
    assert "search: round 1 of at most 6, 8 cells" in done.err
    stop_at = 0
    before = list(measured_cells)
    done = tiny()
    assert done.code == 0, done.err
    assert len(set(measured_cells)) == len(measured_cells), "what was measured is not measured again"
    assert measured_cells[: len(before)] == before
    assert len(measured_cells) <= 0.36 * 32 * 3
    assert "search: the answer is shown; " in done.err
    (folder,) = reports
    found = verdict(frames.load(folder), folder)
    assert "4 server threads, 12 clients" in found.lines[0]
    assert any(re.match(r"Sure: a search of \d rounds measured \d+ of 32 cells", line) for line in found.lines)
    plan = read_plan(folder)
    assert plan is not None
    assert (plan.looks, len(plan.searched)) == (6, plan.rounds)
    measured_cells.clear()
    (tmp_path / "tiny.yaml").write_text(f'engine: "none"\n{axes}samples: 20\nrounds: 2\n', encoding="utf-8")
    assert tiny().code == 0
    assert len(measured_cells) == 2 * 32, "the whole grid is a run of its own"


def test_two_sweeps_do_not_write_to_one_folder(tmp_path: Path, tiny: Callable[[], Any]) -> None:
    with alone(tmp_path / "out" / "tiny"):
        done = tiny()
    assert done.code != 0
    assert "another sweep is at work in" in done.err


@pytest.mark.parametrize(
    "command", ["flask", "flask-gateway", "flask-dev", "flask-client", "ladder", "flask-benchmark"]
)
def test_the_help_of_an_http_command_has_an_example(command: str) -> None:
    done = run(command, "--help")
    assert done.code == 0
    assert f"imdb-serving {command}" in done.out.split("Example:")[1]


@pytest.mark.slow  # test_examples.py has a short form
def test_flask_benchmark_prints_the_published_table_and_ours(bundle: Path) -> None:
    done = shell("flask-benchmark", bundle, "--samples", "24", "--server-threads", "2", cwd=ROOT)
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines() if line.split() and line.split()[0].isdigit()]
    assert [line[0] for line in lines] == ["1", "2", "4", "8", "12", "16", "20", "24"]
    assert lines[0][1:3] == ["3.285", "33.286"]
    assert all(float(figure) > 0 for line in lines for figure in line[1:])
    assert {len(line) for line in lines} == {1 + 2 * 3}


def test_the_commands_are_grouped_by_what_one_wants_to_do() -> None:
    from imdb_serving.cli.group import INTENTS

    page = run("--help").out
    named = [name for names in INTENTS.values() for name in names]
    assert sorted(named) == sorted(main.commands)
    places = [page.index(f"\n{intent}:\n") for intent in INTENTS]
    assert places == sorted(places)
    assert "..." not in page.replace("[ARGS]...", "")  # no sentence is cut short


@pytest.mark.parametrize("name", sorted(main.commands))
def test_the_help_of_a_command_has_its_example_first(name: str) -> None:
    page = run(name, "--help").out
    assert page.index("Example:") < page.index("Options:")
    before = page[: page.index("Example:")].strip().split("\n\n")
    assert len(before) == 2, "behind the usage stands one sentence, and then the example"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_given_what_completes(shell: str) -> None:
    done = run("completion", shell)
    assert done.code == 0
    assert "_IMDB_SERVING_COMPLETE" in done.out


def test_engines_are_completed() -> None:
    from click.shell_completion import ShellComplete

    found = ShellComplete(main, {}, "imdb-serving", "_X").get_completions(["serve", "--engine"], "f")
    assert [item.value for item in found] == ["folded"]
