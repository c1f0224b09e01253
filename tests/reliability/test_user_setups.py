"""What a user's own set-up brings, dotfiles and environment, changes nothing of what we run for ourselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from imdb_serving.measurement.ledger import Ledger
from imdb_serving.report.style import own_style, save
from imdb_serving.server_process import ServerProcess

COMMAND = [sys.executable, "-m", "imdb_serving"]
NOWHERE = "http://127.0.0.1:1"
NAME = "my 参数"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def behind_a_proxy() -> dict[str, str]:
    """The environment of a user whose proxy is down, and who has no exceptions from it."""
    kept = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    return {**kept, **dict.fromkeys(PROXIES, NOWHERE)}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def odd_set_up(home: Path) -> dict[str, str]:
    """The environment of a user who has set up every tool in another way."""
    kernel = {"argv": ["false", "{connection_file}"], "display_name": "another", "language": "python"}
    write(home / "jupyter" / "kernels" / "python3" / "kernel.json", json.dumps(kernel))
    write(home / "matplotlib" / "matplotlibrc", "text.usetex: True\nfigure.facecolor: red\nsavefig.format: eps\n")
    profile = home / "ipython" / "profile_default"
    write(profile / "ipython_config.py", "c.InteractiveShell.ast_node_interactivity = 'all'\n")
    write(profile / "startup" / "00-exit.py", "import os\nos._exit(3)\n")
    startup = write(home / "startup.py", "import os\nos._exit(4)\n")
    write(home / ".curlrc", "proxy = 127.0.0.1:1\nfail\noutput = /dev/null\n")
    return {
        **behind_a_proxy(), "JUPYTER_PATH": str(home / "jupyter"), "MPLCONFIGDIR": str(home / "matplotlib"),
        "IPYTHONDIR": str(home / "ipython"), "PYTHONSTARTUP": str(startup), "CURL_HOME": str(home), "MPLBACKEND": "agg",
        "PYTHONIOENCODING": "gbk",
    }  # fmt: skip


@pytest.mark.slow
def test_a_sweep_is_as_ever_in_an_odd_set_up(tmp_path: Path) -> None:
    also = "also:\n  - http_client: curl\n" if shutil.which("curl") else ""
    sweep = write(
        tmp_path / f"{NAME}.yaml",
        "mode: flask\nengine: simulated\nservice_time_ms: 1\nserver_threads: [1]\nclient_threads: [1]\nsamples: 20\n"
        f"rounds: 1\nextra_rounds: 0\ntwin: false\n{also}",
    )
    done = subprocess.run(
        [*COMMAND, "sweep", str(sweep), "--outputs", str(tmp_path)], env=odd_set_up(tmp_path / "home"),
        cwd=Path(__file__).parents[2], capture_output=True, timeout=250, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    assert b"\r" not in done.stderr  # a line a run where there is no terminal
    assert done.stderr.count(b"\nrun ") == (2 if also else 1), done.stderr
    rows = Ledger(tmp_path / NAME).rows()
    assert {row.error for row in rows} == {""}
    assert {row.cell.client_kind for row in rows} == ({"keep-alive", "curl"} if also else {"keep-alive"})
    assert (tmp_path / NAME / "report.html").is_file()
    for notebook in (tmp_path / NAME / "notebooks").glob("grid-*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert sum("image/png" in output.get("data", {}) for output in outputs) == 1


def test_status_asks_past_a_proxy() -> None:
    with ServerProcess(["--engine", "none", "--metrics-port", "0"]) as server:
        done = subprocess.run(
            [*COMMAND, "status", server.endpoint], env=behind_a_proxy(), capture_output=True, text=True, timeout=60,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "requests_waiting" in done.stdout


@pytest.mark.parametrize("usetex", [True, False])
def test_figures_are_ours_whatever_matplotlibrc_says(usetex: bool, tmp_path: Path) -> None:
    with mpl.rc_context({"text.usetex": usetex, "font.size": 30, "axes.facecolor": "red", "savefig.dpi": 10}):
        with own_style():
            figure, axes = plt.subplots()
            axes.set_title("50 % of µs_per_request & more")
        save(figure, tmp_path, "figure")
        assert mpl.rcParams["font.size"] == 30
    with own_style():
        plain, axes = plt.subplots()
        axes.set_title("50 % of µs_per_request & more")
    save(plain, tmp_path, "plain")
    assert (tmp_path / "figure.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH is of Python 3.11")
@pytest.mark.parametrize("command", ["serve", "flask", "flask-gateway"])
def test_files_named_as_modules_in_the_working_folder_are_not_imported(command: str, tmp_path: Path) -> None:
    for name in ("signal", "random", "queue", "numpy", "flask", "click"):
        write(tmp_path / f"{name}.py", f"raise SystemExit('imported {name}')\n")
    as_pip_writes_it = "from imdb_serving.__main__ import run\nif __name__ == '__main__':\n    run()\n"
    script = write(tmp_path / "bin" / "imdb-serving", as_pip_writes_it)
    options = ["--engine", "none", "--worker-kind", "process", "--port", "0", "--exit-with-stdin"]
    process = subprocess.Popen(
        [sys.executable, str(script), command, *options],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    ready = process.stdout.readline()
    _, errors = process.communicate("", timeout=60)
    assert ready.startswith("ready "), errors
    assert "imported" not in errors
