"""Advice: the grid fits the machine, the memory and the time; the file is kept; it always ends with what is known."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import CliRunner
from server_that_runs import SOMEONES, running

from imdb_serving.cell import Figures
from imdb_serving.cli import main, sweep
from imdb_serving.experiment import advice
from imdb_serving.experiment.advice import FirstLook, Machine, SearchGrid, counts_to, grid_within, parameters, text_of
from imdb_serving.measurement.deployment import THIS_MACHINE
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.parameters import GridParams, load_sweep
from imdb_serving.report import frames, notebooks
from imdb_serving.report.verdict import verdict

ROOT = Path(__file__).parents[2]
COMMAND = f"{sys.executable} {SOMEONES} {{{{ port }}}} {{{{ server_threads }}}}"
BOTH = ("server_threads", "math_threads")
QUICK = FirstLook(start_s=1.0, request_s=0.0005, memory_mib=100.0)
BODY = '{"text": {{ text | tojson }}}'


def test_counts_end_with_the_most() -> None:
    assert [counts_to(most) for most in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]
    assert counts_to(64, 4) == [1, 4, 16, 64]


@pytest.mark.parametrize("cores", [1, 2, 3, 6, 64])
def test_a_grid_stays_within_the_cores(cores: int) -> None:
    grid = grid_within(3600, QUICK, BOTH, Machine(cores, 1e6))
    assert all(count * math <= cores for math, counts in grid.threads.items() if math > 1 for count in counts)
    assert max(grid.threads[1]) == 2 * cores, "one count beyond the cores shows whether more would give more"
    assert max(grid.threads) == cores
    assert grid.clients[-1] == max(8, 4 * cores)
    assert grid.samples >= 20 * grid.clients[-1]


def test_workers_stay_within_the_memory() -> None:
    grid = grid_within(3600, QUICK, BOTH, Machine(16, 550.0))
    assert max(count for counts in grid.threads.values() for count in counts) == 5
    assert grid_within(3600, QUICK, BOTH, Machine(16, 50.0)).threads[1] == [1], "one runs already"
    assert max(grid_within(3600, QUICK._replace(memory_mib=None), BOTH, Machine(16, 50.0)).threads[1]) == 32


@pytest.mark.parametrize("used", [(), ("server_threads",), ("math_threads",)])
def test_only_counts_that_the_command_uses_vary(used: tuple[str, ...]) -> None:
    grid = grid_within(3600, QUICK, used, Machine(8, 1e6))
    assert (len(grid.threads) > 1) == ("math_threads" in used)
    assert (len(grid.threads[1]) > 1) == ("server_threads" in used)


def test_less_time_is_a_less_thorough_search() -> None:
    slow, machine = FirstLook(5.0, 0.05, None), Machine(4, 1e6)
    grids = [grid_within(60 * minutes, slow, BOTH, machine) for minutes in (240, 60, 15, 5)]
    times = [grid.seconds(slow, 4) for grid in grids]
    assert times == sorted(times, reverse=True)
    assert times[0] > 2 * times[-1]
    assert all(found <= 60 * minutes for found, minutes in zip(times[:3], (240, 60, 15), strict=True))


def test_a_file_says_what_was_asked_and_can_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_ADVICE", "hunter2")
    asked = {
        "server_command": "serve '{{ server_threads }}' --port {{ port }}", "server_ready": "/health",
        "server_environment": {"OMP_NUM_THREADS": "{{ math_threads }}", "A": "x: y # z"},
        "request_body": '{"a": "é\n", "text": {{ text | tojson }}}', "request_path": "/p", "answer": "scores[1]",
        "request_headers": {"Authorization": "Bearer {{ env.SECRET_OF_ADVICE }}"},
    }  # fmt: skip
    grid = SearchGrid({1: [1, 2, 4], 2: [1, 2], 4: [1]}, [1, 8], 700, 4)
    path = tmp_path / "own.yaml"
    path.write_text(text_of(parameters(asked, grid, 30.0), "two\nlines"), encoding="utf-8")
    assert "hunter2" not in path.read_text(encoding="utf-8")
    read = load_sweep(path)
    assert {name: getattr(read, name) for name in asked} == asked
    assert (read.search, read.rounds, read.samples, read.timeout) == (True, 4, 700, 30.0)
    assert sorted({(axes.math_threads, axes.server_threads) for _, axes in read.every_grid()}) == [
        (1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1),
    ]  # fmt: skip


def run(folder: Path, *words: object, command: str = COMMAND) -> SimpleNamespace:
    asked = ["--path", "/predict", "--body", BODY, "--answer", "scores[1]", "--file", folder / "own.yaml"]
    words = ("advise", "--command", command, *asked, "--outputs", folder / "out", *words)
    found = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    return SimpleNamespace(code=found.exit_code, out=found.stdout, err=found.stderr)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--command", ""], "say how the server starts"),
        (["--command", "serve --port 80"], "does not use {{ port }}"),
        (["--command", "no-such-program {{ port }}"], "there is no program 'no-such-program'"),
        (["--command", f"{sys.executable} -c 'raise SystemExit(7)' {{{{ port }}}}"], "ended at once"),
        (["--body", "{{ txt }}"], "unknown name 'txt'"),
        (["--answer", "probabilities"], "finds nothing in the answer"),
        (["--data", "no-such-file.csv"], "there is no file"),
        (["--environment", "A"], "expected NAME=VALUE"),
        (["--url", "http://192.0.2.1", "--command", ""], "is not this machine"),
        (["--minutes", "0"], "--minutes"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_load(tmp_path: Path, words: list[str], said: str) -> None:
    found = run(tmp_path, *words)
    assert (found.code, said in found.err) == (2, True), found.err
    assert not (tmp_path / "own.yaml").exists()


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("mine", encoding="utf-8")
    found = run(tmp_path)
    assert found.code == 2
    assert "is there already" in found.err
    assert (tmp_path / "own.yaml").read_text(encoding="utf-8") == "mine"


Execute = Callable[[GridParams], None]


def judged(folder: Path) -> str:
    return verdict(frames.load(folder), folder).text


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Callable[[Execute], None]:
    """Have cells measured by a model of a server, `between` called before each run, and the verdict printed alone.

    Throughput has one peak, at 4 server threads and 8 clients.
    """
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(advice, "this_machine", lambda: Machine(4, 1e6))

    def measure(between: Execute) -> None:
        def execute(params: GridParams, _out: Path, _kernels: object) -> None:
            between(params)
            ledger = Ledger(Path(params.outputs) / params.sweep)
            around = THIS_MACHINE.start_round(params, ledger)
            for cell in params.cells():
                noise = 1 + 0.001 * ((5 * params.round + 3 * cell.server_threads + cell.client_threads) % 7 - 3)
                away = abs(cell.server_threads - 4) + abs(cell.client_threads - 8) / 4
                figures = Figures(wall_s=1.0, throughput=1000 * noise / (1 + 0.1 * away), request_rate=1000.0)
                row = msgspec.structs.replace(around.row(cell), answered=20, requests=20, figures=figures, status="ok")
                ledger.append(row, [])

        monkeypatch.setattr(notebooks, "execute_grid", execute)
        monkeypatch.setattr(sweep, "write_report", lambda folder, *_, **__: print(judged(folder)))

    return measure


def test_it_says_what_is_known_so_far_and_ends_with_a_verdict(
    tmp_path: Path, measuring: Callable[[Execute], None]
) -> None:
    measuring(lambda _params: None)
    found = run(tmp_path, "--minutes", 2)
    assert found.code == 0, found.err
    assert "1 math thread: 1, 2, 4, 8 server threads" in found.err
    assert re.search(r"round 2 of at most \d+, \d+ cells; so far \d+ server threads?, \d+ clients?: \d+", found.err)
    assert "the answer is shown" in found.err
    assert found.out.startswith("Run http, someones_server, 4 server threads, 8 clients: ")
    assert "What serving costs over the bare model is not known" in found.out
    assert load_sweep(tmp_path / "own.yaml").search


def interrupted(params: GridParams) -> None:
    if params.round == 3:
        raise KeyboardInterrupt


def slow(params: GridParams) -> None:
    if params.round == 3:
        signal.setitimer(signal.ITIMER_REAL, 0.05)  # the time that is left
        time.sleep(60)


@pytest.mark.parametrize(
    ("between", "said", "code"), [(interrupted, "interrupted; ", 130), (slow, "the time is up; ", 0)]
)
def test_however_it_ends_there_is_a_verdict(
    tmp_path: Path, measuring: Callable[[Execute], None], between: Execute, said: str, code: int
) -> None:
    measuring(between)
    found = run(tmp_path, "--minutes", 2)
    assert found.code == code, found.err
    again = f"imdb-serving sweep {tmp_path / 'own.yaml'} --outputs {tmp_path / 'out'}"
    assert f"{said}`{again}` goes on where this stopped" in found.err
    measuring(lambda _params: None)
    done = CliRunner().invoke(main, again.split()[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "the answer is shown" in done.stderr
    run_names = {row.run for row in Ledger(tmp_path / "out" / "own").rows()}
    assert len(run_names) == 1, "it goes on with what was measured"
    assert found.out.startswith("Run http, someones_server, ")
    assert "Sure: a search of 2 rounds measured" in found.out


def test_without_a_cell_there_is_no_verdict(tmp_path: Path, measuring: Callable[[Execute], None]) -> None:
    def at_once(_params: GridParams) -> None:
        raise KeyboardInterrupt

    measuring(at_once)
    found = run(tmp_path, "--minutes", 2)
    assert found.code == 130
    assert "no cell was measured yet" in found.err


def test_a_server_that_runs_has_its_clients_searched(tmp_path: Path, measuring: Callable[[Execute], None]) -> None:
    measuring(lambda _params: None)
    (tmp_path / "reviews.csv").write_text("text,label\nA fine film,1\nDull,0\n", encoding="utf-8")
    with running() as url:
        found = run(tmp_path, "--url", url, "--minutes", 2, "--data", tmp_path / "reviews.csv", command="")
    assert found.code == 0, found.err
    assert "so no number of workers is searched" in found.err
    read = load_sweep(tmp_path / "own.yaml")
    assert read.data_file == tmp_path / "reviews.csv"
    assert (read.server_url, read.server_threads, read.client_threads) == (url, [1], [1, 2, 4, 8, 16])


@pytest.mark.alone
def test_a_real_server_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = run(tmp_path, "--minutes", 0.3)
    assert found.code in {0, 1}, found.err
    assert "server threads" in found.err
    assert "search: round 1" in found.err
    assert (tmp_path / "out" / "own" / "report.html").is_file()
    assert "reviews/s" in found.out.partition("\n\n")[2] or found.out.startswith("No verdict"), "the table"
    assert "http, someones_server" in found.out or found.out.startswith("No verdict"), found.out
