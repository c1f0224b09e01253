"""A command as a server: started, found ready, and ended with all that came of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

from imdb_serving.errors import ConfigError, ServerStartError
from imdb_serving.foreign import process as module
from imdb_serving.foreign.process import CommandProcess, environment_with, free_port, words_of
from imdb_serving.measurement.cpu_meter import process_tree

SERVER = Path(__file__).with_name("someones_server.py")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the guard finds children by /proc")


def command(port: int = 0) -> str:
    return f"{sys.executable} {SERVER} {port or free_port('127.0.0.1')}"


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def family(server: CommandProcess, count: int) -> list[int]:
    assert wait_until(lambda: len(process_tree([server.pid])) >= count)
    return [one.pid for one in process_tree([server.pid])]


@needs_proc
def test_a_server_ends_with_all_its_children_also_those_that_left_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "END_SECONDS", 0.5)
    with CommandProcess(command(), tmp_path / "out.log", environment={"FAULT": "children"}) as server:
        pids = family(server, 3)
        assert server.running
    assert wait_until(lambda: not alive(pids))


@needs_proc
def test_a_server_ends_when_who_started_it_is_killed(tmp_path: Path) -> None:
    output = str(tmp_path / "out.log")
    code = (
        "import sys, time; from pathlib import Path; from imdb_serving.foreign import process;"
        "process.END_SECONDS = 0.5;"
        f"s = process.CommandProcess({command()!r}, Path({output!r}), environment={{'FAULT': 'children'}});"
        "s.start(); print(s.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        guard = int(parent.stdout.readline())
        assert wait_until(lambda: len(process_tree([guard])) >= 3)
        pids = [one.pid for one in process_tree([guard])]
        parent.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not alive(pids))


@needs_proc
def test_a_server_ends_when_its_guard_is_killed(tmp_path: Path) -> None:
    with CommandProcess(command(), tmp_path / "out.log") as server:
        pids = family(server, 2)
        os.kill(server.pid, signal.SIGKILL)
        assert wait_until(lambda: not alive(pids))


def test_ctrl_c_in_the_terminal_is_not_the_servers(tmp_path: Path) -> None:
    with CommandProcess(command(), tmp_path / "out.log") as server:
        assert os.getpgid(server.pid) != os.getpgid(0)


def test_a_server_minds_the_signals_that_it_would_mind_elsewhere(tmp_path: Path) -> None:
    """Some servers tell their workers to end by SIGINT, which a process is born with ignoring when its parent does."""
    code = "import signal; print([signal.getsignal(n) == signal.SIG_IGN for n in (2, 15, 17)], flush=True)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what runs behind
    try:
        with CommandProcess(f'{sys.executable} -c "{code}"', tmp_path / "out.log") as server:
            assert wait_until(lambda: not server.running)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "out.log").read_text() == "[False, False, False]\n"


def test_a_command_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    server = CommandProcess(command(), tmp_path / "out.log", environment={"FAULT": "die"})
    with server, pytest.raises(ServerStartError, match=r"ended at once.*out\.log:\n.*no such model"):
        server.wait_until(lambda: "nobody is there", 20)


def test_one_that_is_never_ready_is_given_up_in_time(tmp_path: Path) -> None:
    server = CommandProcess(command(), tmp_path / "out.log", environment={"FAULT": "deaf"})
    with server, pytest.raises(ServerStartError, match=r"not ready in 0\.3 s: nobody is there.*out\.log"):
        server.wait_until(lambda: "nobody is there", 0.3)


def test_secrets_are_neither_in_errors_nor_in_the_output_that_stays(tmp_path: Path) -> None:
    output = tmp_path / "out.log"
    environment = {"FAULT": "tell,die", "TOKEN": "s3cret"}
    server = CommandProcess(command(), output, environment=environment, secrets={"s3cret"})
    with server, pytest.raises(ServerStartError, match=r"my token is \*\*\*"):
        server.wait_until(lambda: "not yet", 20)
    assert "my token is ***" in output.read_text()


def test_the_output_file_is_nobody_elses_and_kept_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OUTPUT", 10_000)
    output = tmp_path / "out.log"
    chatty = f"{sys.executable} -c \"import time\nwhile True: print('x' * 4000, flush=True); time.sleep(0.05)\""
    with CommandProcess(chatty, output):
        assert wait_until(lambda: output.stat().st_size > 10_000)
        assert wait_until(lambda: output.stat().st_size < 10_000)
    assert output.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("", "empty"), ("run 'a", "No closing quotation"), ("a && b", "'&&' is for a shell"), ("a | b", "for a shell"),
    ],
)  # fmt: skip
def test_what_is_no_command_is_refused(words: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        words_of(words)


@pytest.mark.parametrize(
    ("command", "directory", "what"),
    [
        ("no-such-program-at-all --x", None, "no program"),
        ("./nothing", None, "no program"),
        ("true", "gone", "no folder"),
    ],
)
def test_a_program_or_folder_that_is_not_there_is_told_before_the_start(
    tmp_path: Path, command: str, directory: str | None, what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        CommandProcess(command, tmp_path / "out.log", directory=tmp_path / directory if directory else None)


def test_programs_beside_this_python_are_found_first() -> None:
    assert environment_with({})["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert environment_with({"PATH": "mine"})["PATH"] == "mine"


def test_stop_is_quick_when_the_server_ends_by_itself(tmp_path: Path) -> None:
    server = CommandProcess(f"{sys.executable} -c pass", tmp_path / "out.log")
    server.start()
    assert wait_until(lambda: not server.running)
    begun = time.monotonic()
    server.stop()
    server.stop()
    assert time.monotonic() - begun < module.END_SECONDS
