"""Machines that are full, closed, interrupted or odd: a line that says what was wrong, and no traceback."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import http_kit as http
import load_kit as load
import pytest
import rpc_kit as kit
from waiting import wait_until

from imdb_serving.clients.connect import connect
from imdb_serving.errors import ConfigError
from imdb_serving.measurement.parameters import load_sweep
from imdb_serving.server_process import ServerProcess

COMMAND = [sys.executable, "-m", "imdb_serving"]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


def run(*arguments: str, shell: str = "", cwd: Path | None = None, data: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command, its streams as `shell` says."""
    line = " ".join(f"'{part}'" for part in [*COMMAND, *arguments])
    return subprocess.run(
        ["bash", "-c", f"{line} {shell}"], capture_output=True, text=True, timeout=60, check=False, cwd=cwd, input=data,
    )  # fmt: skip


def write_lines(path: Path, count: int) -> None:
    """Reviews as word ids, half of them positive."""
    path.write_text("".join(f"2 8 9 {number % 2}\n" for number in range(count)))


def assert_said(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """It failed with words and without a traceback."""
    assert done.returncode not in {0, -signal.SIGKILL}
    assert "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("encoding", load.some(["gbk", "ascii", "cp437", "ascii:strict"], ["gbk", "ascii:strict"]))
def test_what_a_terminal_cannot_show_is_replaced(encoding: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for arguments in (["doctor"], ["sweep", "µ-参数.yaml"], ["client", "µ参.conf"], ["status", "http://127.0.0.1:1/µ"]):
        done = subprocess.run(
            [*COMMAND, *arguments], capture_output=True, timeout=60, check=False, cwd=tmp_path, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert b"Traceback" not in done.stderr, done.stderr
        assert done.returncode in ({0} if arguments == ["doctor"] else {2, 1}), done


def test_a_server_that_was_started_from_such_a_terminal_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "gbk")
    (tmp_path / "ä").mkdir()
    with ServerProcess(["--engine", "none", "--endpoint", f"socket+unix://{tmp_path}/ä/s"]) as server:
        assert server.endpoint == f"socket+unix://{tmp_path}/ä/s"
        with connect(server.endpoint) as client:
            assert client.hello().pid == server.pid


@pytest.mark.parametrize("text", ["seed: 2020-13-45", f"seed: {'9' * 5000}", f"seed: {'[' * 3000}", "seed: 2020-01-01",
                                  "model: ~nosuchuser/x"])  # fmt: skip
def test_parameters_that_are_none_are_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(text + "\n")
    if "model" not in text:
        with pytest.raises(ConfigError):
            load_sweep(tmp_path / "odd.yaml")
        return
    assert_said(run("sweep", "odd.yaml", "--dry-run", cwd=tmp_path), "imdb-serving: ConfigError")


def test_a_home_that_nobody_has_is_told(tmp_path: Path) -> None:
    assert_said(run("data", "--source", "~nosuchuser/x", "--out", str(tmp_path / "d")), "~nosuchuser/x")


@needs_full
def test_a_full_disk_is_told(bundle: Path, tmp_path: Path) -> None:
    assert_said(run("data", "--samples", "2000", "--format", "ids", "--out", str(FULL)), "No space left")
    assert_said(run("serve", "--engine", "none", "--port", "0", shell=">/dev/full"), "No space left")
    write_lines(tmp_path / "lines", 20)
    with ServerProcess(["--engine", "none"]) as server:
        conf = str(bundle / "inference.conf")
        done = run("client", conf, "--endpoint", server.endpoint, shell=f"<{tmp_path}/lines >/dev/full")
        assert_said(done, "cannot write the result: No space left")


@pytest.mark.slow
def test_folders_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "outputs").write_text("")
    (tmp_path / "params").mkdir()
    shutil.copytree(Path(__file__).parents[2] / "notebooks", tmp_path / "notebooks")
    (tmp_path / "p.yaml").write_text("engine: null\nsamples: 10\n")
    assert_said(run("sweep", "p.yaml", cwd=tmp_path), "outputs")
    assert_said(run("train", "--out", str(tmp_path / "file" / "below")), "file")
    assert_said(run("keys", str(tmp_path / "file" / "below")), "file")


@pytest.mark.parametrize("closed", load.some(["<&-", ">&-", "2>&-", "<&- >&- 2>&-"], ["<&- >&- 2>&-"]))
def test_closed_streams_are_borne(closed: str, bundle: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "lines", 5)
    with ServerProcess(["--engine", "none"]) as server:
        conf = str(bundle / "inference.conf")
        done = run("client-multi", conf, str(tmp_path / "lines"), "1", "--endpoint", server.endpoint, shell=closed)
        assert "Traceback" not in done.stderr
        assert "AttributeError" not in done.stderr
        assert done.returncode == 0
        done = run("client", conf, "--endpoint", server.endpoint, shell="<&-")
        assert_said(done, "holds no review")


@pytest.mark.parametrize("command", ["serve", "flask"])
@pytest.mark.parametrize("closed", ["<&-", ">&- 2>&-"])
def test_a_server_without_streams_serves(command: str, closed: str) -> None:
    with http.socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = " ".join([*COMMAND, command, "--engine", "none", "--port", str(port), "--server-threads", "1"])
    process = subprocess.Popen(["bash", "-c", f"exec {line} {closed}"], stdout=subprocess.DEVNULL)
    scheme = "tcp" if command == "serve" else "http"
    try:
        with connect(f"{scheme}://127.0.0.1:{port}", 5) as client:

            def answers() -> bool:
                try:
                    return client.hello().pid == process.pid
                except Exception:
                    return False

            assert wait_until(answers, 30)
    finally:
        process.terminate()
    assert process.wait(20) == 0


def limited(descriptors: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


@pytest.mark.parametrize("mode", load.some(load.MODES, ["rpc"]))
def test_more_workers_than_descriptors_are_told(mode: str) -> None:
    from imdb_serving.server_process import MODES

    command, *own = MODES[mode]
    where = own or ["--port", "0"]
    done = subprocess.run(
        [*COMMAND, command, *where, "--engine", "none", "--worker-kind", "process", "--server-threads", "60"],
        capture_output=True, text=True, timeout=120, check=False, preexec_fn=lambda: limited(64),
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert_said(done, "cannot start 60 workers", "raise the limits")


@pytest.mark.parametrize("mode", load.some(load.MODES, ["rpc", "flask"]))
def test_a_server_that_has_no_descriptors_left_for_a_worker_waits_for_some(mode: str) -> None:
    with load.simulated(mode, 1, 2) as server, connect(server.endpoint, 30) as client:
        client.predict(kit.SAMPLE)
        used = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used - 1, 4096))
        before = kit.workers(server.pid)
        os.kill(min(before), signal.SIGKILL)
        assert not wait_until(lambda: kit.workers(server.pid) - before, 2)
        assert client.predict(kit.SAMPLE)["prediction"].tolist() == [0.5, 0.5]
        assert server.running
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (4096, 4096))
        assert wait_until(lambda: client.hello().workers_ready == 2, 60)


def test_a_working_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    script = f"mkdir {gone}; cd {gone}; rmdir {gone}; {' '.join(COMMAND)}"
    for arguments in ("sweep", "serve --engine none --worker-kind process --port 0", "data"):
        done = subprocess.run(["bash", "-c", f"{script} {arguments}"], capture_output=True, text=True, timeout=20,
                              check=False, stdin=subprocess.DEVNULL)  # fmt: skip
        assert_said(done, "the working folder is gone; change to another one")
        assert done.returncode == 2


def _has_begun(pid: int) -> bool:
    """Return True once `run` has set SIGINT back; before, Ctrl-C interrupts the interpreter's own start.

    The interpreter ignores SIGPIPE, then handles SIGINT; `run` sets that to the default, until the server handles it.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    masks = {name: int(value, 16) for name, value in re.findall(r"^(Sig\w+):\s+(\w+)$", status, re.MULTILINE)}
    return bool(masks["SigIgn"] & 1 << signal.SIGPIPE - 1) and not masks["SigCgt"] & 1 << signal.SIGINT - 1


@pytest.mark.parametrize("command", ["serve", "flask"])
def test_ctrl_c_while_a_server_starts_ends_it_without_a_traceback(command: str) -> None:
    in_time = 0
    for milliseconds in (0, 40, 100, 250, 400, 700):
        process = subprocess.Popen(
            [*COMMAND, command, "--engine", "none", "--worker-kind", "process", "--port", "0"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        in_time += wait_until(lambda pid=process.pid: _has_begun(pid), 5)  # a busy machine may look too late
        time.sleep(milliseconds / 1000)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert "Traceback" not in errors, (milliseconds, errors)
        assert wait_until(lambda group=process.pid: not kit.group_is_alive(group), 20)
    assert in_time


def test_the_clients_of_a_killed_command_end(bundle: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "lines", 2000)
    with load.simulated("rpc", 20, 2, "thread") as server:
        process = subprocess.Popen(
            [*COMMAND, "client-multi", str(bundle / "inference.conf"), str(tmp_path / "lines"), "2",
             "--endpoint", server.endpoint],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert wait_until(lambda: len(kit.workers(process.pid)) == 2, 30)
        time.sleep(1)
        process.kill()
        process.wait(10)
        assert wait_until(lambda: not kit.group_is_alive(process.pid), 20)


def test_so_many_clients_are_no_use(bundle: Path, tmp_path: Path) -> None:
    done = run("client-multi", str(bundle / "inference.conf"), str(tmp_path / "lines"), "100000")
    assert_said(done, "1<=x<=1024")


def test_a_batch_that_was_refused_has_no_times(bundle: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "lines", 30)
    with ServerProcess(["--engine", "none", "--max-samples", "5"]) as server:
        conf = str(bundle / "inference.conf")
        done = run("client-batch", conf, "10", "--endpoint", server.endpoint, shell=f"<{tmp_path}/lines")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 30)
    assert "no times: some batches were refused" in done.stderr
    assert "samples/s" not in done.stderr


def test_a_gateway_starts_its_server_again() -> None:
    with http.server("--engine", "none", "--server-threads", "2", command="flask-gateway") as gateway:
        assert http.post(gateway.endpoint).status == 200
        (child,) = kit.children(gateway.pid)
        os.kill(child, signal.SIGKILL)
        assert wait_until(lambda: bool(kit.children(gateway.pid) - {child}), 60)
        assert wait_until(lambda: http.post(gateway.endpoint).status == 200, 60)
        assert not kit.alive({child})
