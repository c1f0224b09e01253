"""The Makefile with other people's file names, and with the make of other people's machines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READY = ".venv/.ready"

# Stands for every Python: makes an environment of stubs of which uv fails, and notes what pip is asked for.
PYTHON = f"""#!{sys.executable}
import os, pathlib, sys
words = sys.argv[1:]
if words[:2] == ["-m", "venv"]:
    bin = pathlib.Path(words[2]) / "bin"
    bin.mkdir(parents=True)
    (bin / "python").symlink_to(pathlib.Path(sys.argv[0]).resolve())
    (bin / "uv").write_text("#!/bin/sh\\necho 'error: no way out' >&2\\nexit 2\\n")
    (bin / "uv").chmod(0o755)
elif "pip" in words:
    open("pip.log", "a").write(" ".join(words) + os.linesep)
"""


def make(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", *words], cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
        env=kept, encoding="utf-8",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["my file.yaml", "参数.yaml", "it's.yaml", "a$b & c.yaml", "ä ö.v2.yaml", "(1).yaml"])
def test_a_parameter_file_may_have_any_name(name: str) -> None:
    done = make("-o", READY, "sweep", f"PARAMS=params/{name.replace('$', '$$')}", "RUN=printf '<%s>'", "CLUSTER=")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"==> sweep params/{name}", f"<sweep><params/{name}>"]
    done = make("-o", READY, "report", f"PARAMS=params/{name.replace('$', '$$')}", "RUN=printf '<%s>'")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"<report><outputs/{Path(name).stem}>"


@pytest.mark.parametrize("flags", [[], [".SHELLFLAGS=-c"]], ids=["this make", "as make 3.81, without shell flags"])
def test_an_installer_that_fails_is_noticed(flags: list[str], tmp_path: Path) -> None:
    for file in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    done = make("setup", f"PYTHON={python}", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "error: no way out" in done.stdout
    assert "uv could not; pip takes some minutes longer" in done.stdout
    asked = (tmp_path / "pip.log").read_text().splitlines()
    assert sum("-r requirements.lock" in line for line in asked) == 1


def test_no_recipe_counts_on_flags_of_the_shell() -> None:
    """GNU make 3.81, which macOS has, ignores them."""
    assert ".SHELLFLAGS" not in (ROOT / "Makefile").read_text(encoding="utf-8")
