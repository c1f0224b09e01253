"""Kernels that several notebooks run in, one after another: as if each had one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from imdb_serving.measurement.ledger import Ledger
from imdb_serving.report.kernels import Kernels, OwnKernel
from imdb_serving.report.notebooks import NotebookError, execute


def run_grid(folder: Path, name: str, kernels: Kernels, **more: object) -> Path:
    given = {"engine": "none", "samples": 8, "client_threads": [1, 2], "outputs": str(folder), "sweep": "kept"}
    execute("grid.ipynb", folder / f"{name}.ipynb", {**given, "run": "one", **more}, kernels)
    return folder / f"{name}.ipynb"


def kept(kernels: Kernels) -> OwnKernel:
    with kernels.one(Path()) as kernel:
        return kernel


def counts(notebook: Path) -> list[int]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]


def test_a_notebook_finds_a_kept_kernel_as_new(tmp_path: Path) -> None:
    with Kernels() as kernels:
        first = run_grid(tmp_path, "first", kernels, server_threads=2)
        kernel = kept(kernels)
        second = run_grid(tmp_path, "second", kernels)  # server_threads is the notebook's own again
        assert kept(kernels) is kernel
        assert counts(second) == counts(first) == list(range(1, len(counts(first)) + 1))
        process = kernel.provisioner.process
    assert process.poll() is not None, "the kernel has outlived the block"
    rows = [row.cell for row in Ledger(tmp_path / "kept").rows() if row.cell.series == "grid"]
    assert sorted((cell.server_threads, cell.client_threads) for cell in rows) == [(2, 1), (2, 2), (4, 1), (4, 2)]


def test_a_kernel_whose_notebook_failed_is_not_kept(tmp_path: Path) -> None:
    with Kernels() as kernels:
        run_grid(tmp_path, "first", kernels)
        kernel = kept(kernels)
        with pytest.raises(NotebookError, match="did you mean 'server_threads'"):
            run_grid(tmp_path, "second", kernels, server_thread=2)
        run_grid(tmp_path, "third", kernels, server_threads=1)
        assert kept(kernels) is not kernel


def test_papermill_is_imported_without_a_grammar_that_it_does_not_need() -> None:
    code = (
        "import sys; from imdb_serving.report.notebooks import _papermill; _papermill().execute_notebook; "
        "assert 'jsonschema' in sys.modules and 'rfc3987_syntax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
