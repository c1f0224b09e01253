"""The published command lines, word by word, in a folder that holds a bundle's files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = EXAMPLES.parent / "docs" / "using.md"
SAMPLES = 10


def bash(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder, with this Python as `python`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True,
        timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts, the model and test.data."""
    made = tmp_path_factory.mktemp("examples") / "imdb"
    shutil.copytree(bundle, made)
    for script in EXAMPLES.glob("*.*"):
        shutil.copy(script, made)
    done = bash(f"imdb-serving data --samples {SAMPLES} --format ids --out test.data", made)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def endpoint(folder: Path) -> Iterator[str]:
    """`python test_server.py serving_server_model PORT`, with a port that is free."""
    server = subprocess.Popen(
        [sys.executable, "test_server.py", "serving_server_model", "0"], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    with server:
        try:
            yield server.stdout.readline().split()[2]
        finally:
            server.terminate()
            assert server.wait(20) == 0


COMMANDS = {
    "one client": "cat test.data | python test_client.py inference.conf > result",
    "several clients": "python test_client_multithread.py inference.conf test.data 4 > result",
    "batches": "cat test.data | python test_client_batch.py inference.conf 4 > result",
}


FLASK_CLIENT = "python flask_client_multithread.py serving_client_conf/serving_client_conf.prototxt test.data 4"


def test_every_script_says_its_own_command_line() -> None:
    published = [path for path in EXAMPLES.glob("*.py") if path.name != "own_op.py"]
    pages = {path.name: path.read_text(encoding="utf-8") for path in published}
    assert len(pages) == 6
    assert "python test_server.py serving_server_model" in pages["test_server.py"]
    assert "python imdb_flask.py serving_server_model" in pages["imdb_flask.py"]
    for command in [*COMMANDS.values(), FLASK_CLIENT]:
        assert any(command in page for page in pages.values()), command
    assert "bash flask_benchmark.sh" in (EXAMPLES / "flask_benchmark.sh").read_text(encoding="utf-8")


def test_the_python_example_of_the_readme_runs(folder: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert '"outputs/models/cnn"' in code
    done = subprocess.run(
        [sys.executable, "-c", code.replace('"outputs/models/cnn"', repr(str(folder)))],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"\[0\.\d+ +0\.\d+ *\]\n", done.stdout)


def test_the_published_command_lines_write_the_same_result(folder: Path, endpoint: str) -> None:
    results = {}
    for name, command in COMMANDS.items():
        done = bash(command.replace(" > ", f" --endpoint {endpoint} > "), folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        results[name] = (folder / "result").read_bytes()
        (folder / "result").unlink()
    assert len(set(results.values())) == 1
    assert len(results["one client"].splitlines()) == SAMPLES


def test_the_published_flask_command_lines_give_the_results_of_rpc(folder: Path, endpoint: str) -> None:
    server = subprocess.Popen(
        [sys.executable, "imdb_flask.py", "serving_server_model", "0"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    assert server.stderr is not None
    with server:
        try:
            ready = server.stdout.readline().split()
            assert ready[:2] == ["ready", "flask-dev"]
            own = f"--endpoint {ready[2]}"
            rpc = bash(f"python test_client_multithread.py inference.conf test.data 4 --endpoint {endpoint}", folder)
            for options in (own, f"{own} --http-client curl", f"{own} --batch 4"):
                done = bash(f"{FLASK_CLIENT} {options}", folder)
                assert (done.returncode, done.stdout) == (0, rpc.stdout), done.stderr
        finally:
            server.terminate()
            _, words = server.communicate(timeout=20)
    profiles = re.findall(r"^PROFILE flask_cost: (\S+) total_cost: (\S+)$", words, re.MULTILINE)
    assert len(profiles) == SAMPLES + SAMPLES + 3  # ten samples are three batches
    assert all(0 < float(cost) < float(total) for cost, total in profiles)


@pytest.mark.slow  # what it does eight times, the test above does once
def test_the_flask_benchmark_script_runs_all_published_client_counts(folder: Path) -> None:
    done = bash("imdb-serving data --samples 24 --format ids --out test.data && PORT=0 bash flask_benchmark.sh", folder)
    bash(f"imdb-serving data --samples {SAMPLES} --format ids --out test.data", folder)
    assert done.returncode == 0, done.stderr
    counts = re.findall(r"^client thread num: (\d+)$", done.stdout, re.MULTILINE)
    assert counts == ["1", "2", "4", "8", "12", "16", "20", "24"]
    assert done.stderr.count("accuracy ") == 8
    profile = (folder / "flask_profile.log").read_text(encoding="utf-8")
    assert profile.count("PROFILE flask_cost") == 8 * 24


def test_the_flask_benchmark_script_says_what_is_missing(tmp_path: Path) -> None:
    done = bash(f"bash {EXAMPLES / 'flask_benchmark.sh'}", tmp_path)
    assert done.returncode == 2
    assert "there is no serving_server_model here" in done.stderr
