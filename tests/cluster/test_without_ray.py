"""Without the extra a cluster is refused with what to install, and all else works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHOUT = "import sys; sys.modules['ray'] = None; from imdb_serving.__main__ import run; sys.argv = {}; run()"


def run_without(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(["imdb-serving", *arguments])
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )


def test_a_cluster_without_ray_is_refused_in_one_line(tmp_path: Path) -> None:
    params = tmp_path / "small.yaml"
    params.write_text("engine: 'null'\nsamples: 10\nclient_threads: [1]\nserver_threads: [1]\n")
    done = run_without("sweep", str(params), "--cluster", "auto", "--outputs", str(tmp_path / "out"))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "a cluster needs Ray" in line
    assert "pip install 'imdb-serving[ray]' on this machine and every node" in line
    again = run_without("sweep", str(params), "--dry-run", "--outputs", str(tmp_path / "out"))
    assert again.returncode == 0, again.stderr
