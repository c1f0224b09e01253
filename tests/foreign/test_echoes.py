"""The limits of transports: echoes are measured, and never recommended."""

from __future__ import annotations

from pathlib import Path

import pytest

from imdb_serving.cell import ECHO_MODES
from imdb_serving.errors import ConfigError, RequestTimeout, ServerUnavailable
from imdb_serving.experiment.grid import run_grid
from imdb_serving.experiment.plan import aa_repeat_of, may_be_chosen
from imdb_serving.foreign.echoes import CLIENTS
from imdb_serving.foreign.process import free_port
from imdb_serving.measurement.parameters import GridParams, SweepParams


@pytest.mark.parametrize("mode", ECHO_MODES)
def test_an_echo_is_measured_without_an_engine(mode: str, tmp_path: Path) -> None:
    params = GridParams(mode=mode, samples=60, client_threads=[1, 3], server_threads=4, outputs=str(tmp_path))
    rows = run_grid(params, lambda _line: None)
    assert [(row.error, row.answered, row.cell.server_threads, row.cell.engine) for row in rows] == [
        ("", 60, 1, "")
    ] * 2
    assert rows[0].stages == ("encode", "remote")
    assert rows[0].difference is None
    assert rows[0].figures.of_ceiling is None


def test_an_echo_has_one_count_of_threads_and_is_no_servers_pair(tmp_path: Path) -> None:
    sweep = SweepParams(mode=["echo-socket", "rpc"], engine="none", server_threads=[1, 2, 4])
    grids = sweep.every_grid()
    assert [axes.mode for _, axes in grids] == ["echo-socket", "rpc", "rpc", "rpc"]
    runs = [part.grid(axes, 1, "s", "r", tmp_path) for part, axes in grids]
    repeat = aa_repeat_of(runs)
    assert repeat is not None
    assert repeat.mode == "rpc"
    cells = [run.cells()[0] for run in runs]
    assert may_be_chosen(cells) == [False, True, True, True]


def test_a_batch_is_not_echoed() -> None:
    with pytest.raises(ConfigError, match="one review a request"):
        GridParams(mode="echo-socket", batch=2)


@pytest.mark.parametrize("kind", CLIENTS)
def test_an_echo_that_is_not_there_is_told_in_time(kind: str) -> None:
    with pytest.raises((ServerUnavailable, RequestTimeout)), CLIENTS[kind](free_port("127.0.0.1"), 0.2) as client:
        client.hello()
