"""What is left when a process is killed: nothing of what a janitor looks after, and all that is not its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from imdb_serving.processes import Cleanup, temporary_folder

SCRIPT = """
import sys, time
from pathlib import Path
from imdb_serving.processes import temporary_folder
with temporary_folder() as folder:
    (Path(folder) / "below").mkdir()
    (Path(folder) / "below" / "file").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_folder_is_gone_with_its_block() -> None:
    with temporary_folder() as folder:
        (Path(folder) / "file").write_text("x")
    assert not Path(folder).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_folder_is_gone_with_a_process_that_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    with process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert (folder / "below" / "file").exists()
        process.send_signal(number)
    assert wait_until(lambda: not folder.exists(), 20)


def test_what_has_taken_the_place_of_a_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("ours")
    janitor = Cleanup(str(path))
    (tmp_path / "other").write_text("another's")
    (tmp_path / "other").replace(path)
    janitor.close()
    assert path.read_text() == "another's"
