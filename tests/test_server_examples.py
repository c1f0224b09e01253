"""The servers of others in examples/servers answer as the bare engine does, with params/servers.yaml's commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imdb_serving.cell import FOREIGN
from imdb_serving.experiment.grid import run_grid
from imdb_serving.measurement.parameters import GridParams, load_sweep

ROOT = Path(__file__).parents[1]
SERVERS: dict[str, Any] = {
    part.server_label: (part, axes)
    for part, axes in load_sweep(ROOT / "params" / "servers.yaml").every_grid()
    if axes.mode == FOREIGN
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_answers_as_the_engine_does(name: str, bundle: Path, tmp_path: Path) -> None:
    part, axes = SERVERS[name]
    check(part.grid(axes, 1, "servers", "one", tmp_path), bundle)


@pytest.mark.skipif("PYTRITON_PYTHON" not in os.environ, reason="PYTRITON_PYTHON names no Python with pytriton")
def test_triton_answers_as_the_engine_does(bundle: Path, tmp_path: Path) -> None:
    params = GridParams(
        mode="http",
        engine="onnxruntime",
        server_threads=2,
        server_command=f"{os.environ['PYTRITON_PYTHON']} pytriton_app.py {{{{ server_threads }}}} {{{{ port }}}}",
        server_environment={"MODEL": "{{ model }}"},
        server_directory="examples/servers",
        server_ready="/v2/health/ready",
        server_model="imdb",
        request_binary=True,
        protocol="oip",
        answer="outputs[0].data[1]",
        outputs=str(tmp_path),
    )
    check(params, bundle)


def check(params: GridParams, bundle: Path) -> None:
    params = msgspec.structs.replace(params, model=str(bundle), samples=40, client_threads=[2], timeout=30.0)
    (row,) = run_grid(params, lambda _line: None)
    assert (row.error, row.answered) == ("", 40)
    assert row.difference is not None
    assert row.difference <= 1e-4
    assert row.accuracy is not None
    assert row.figures.server_memory_mib
