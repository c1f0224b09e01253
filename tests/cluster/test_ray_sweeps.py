"""On a Ray cluster of three nodes: a sweep goes on, a dead node is replaced, and nothing stays, however it ends."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from time import sleep
from typing import Any

import psutil
import pytest
from ray_kit import Nodes, params, rows_of, start_sweep, sweep_file
from waiting import wait_until

from imdb_serving.cell import FAILED, Row
from imdb_serving.experiment.grid import run_grid
from imdb_serving.measurement.ledger import Ledger

pytest.importorskip("ray", reason="Ray is not installed: make ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # Ray's own, to its own developers
]


def test_a_sweep_runs_side_by_side_stops_at_ctrl_c_and_goes_on(three: Nodes, tmp_path: Path) -> None:
    path = sweep_file(tmp_path)
    sweep = start_sweep(three.address, path, tmp_path)
    with sweep:
        assert wait_until(lambda: [row for row in rows_of(tmp_path) if row.cell.series == "grid"], 200)
        sweep.send_signal(signal.SIGINT)
        words, _ = sweep.communicate(timeout=90)
    assert sweep.returncode == 130, words
    assert "the same command goes on where this one stopped" in words
    three.assert_nothing_stays()
    before = [row for row in rows_of(tmp_path) if row.cell.series == "grid"]
    assert 0 < len(before) < 8

    with start_sweep(three.address, path, tmp_path) as sweep:
        words, _ = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, words
    rows = [row for row in rows_of(tmp_path) if row.cell.series == "grid"]
    assert len({(row.key, row.round) for row in rows if row.status != FAILED}) == 8
    assert len([row for row in rows if row.status != FAILED]) == 8  # none was measured twice
    assert len({node for row in rows for node in row.nodes}) > 1  # side by side
    for part in (rows[: len(before)], rows[len(before) :]):  # what was cut off comes first where the sweep goes on
        for node in {node for row in part for node in row.nodes}:  # which goes through the rounds one after another
            rounds = [row.round for row in part if node in row.nodes and row.status != FAILED]
            assert rounds == sorted(rounds)
    assert (tmp_path / "nodes" / "report.html").is_file()
    three.assert_nothing_stays()


@pytest.mark.parametrize("victim", ["driver", "relay", "host", "kernel"])
def test_whoever_is_killed_no_process_of_ours_stays(three: Nodes, tmp_path: Path, victim: str) -> None:
    path = sweep_file(tmp_path, samples=20_000, rounds=1, mode="rpc", client_threads=[1], placement="apart")
    sweep = start_sweep(three.address, path, tmp_path)
    with sweep:
        assert wait_until(lambda: three.ours("serve", "simulated"), 200)
        sleep(1.0)  # in the middle of the cell
        victims = {
            "driver": lambda: [psutil.Process(sweep.pid)],
            "host": lambda: three.ours("imdb_serving.cluster.host"),
            "kernel": lambda: three.ours("ipykernel"),
            "relay": lambda: [one.parent() for one in three.ours("imdb_serving.cluster.host")],
        }[victim]()
        assert victims
        for process in victims:
            process.kill()
        if victim == "driver":
            sweep.communicate(timeout=30)
        else:
            assert wait_until(lambda: [row for row in rows_of(tmp_path) if row.cell.series == "grid"], 200)
            sweep.terminate()
            sweep.communicate(timeout=60)
    three.assert_nothing_stays()


def test_a_cell_whose_node_dies_fails_and_is_measured_on_another(tmp_path: Path) -> None:
    from imdb_serving.cluster import ray_nodes

    ray_nodes.leave()
    three = Nodes(0, 1, 1)  # the head's end would be the cluster's
    try:
        rows: list[Row] = []
        long = params(three, tmp_path, samples=6_000, client_threads=[1], placement="shared")
        measuring = threading.Thread(target=lambda: rows.extend(run_grid(long, lambda text: None)))
        ray_nodes.join(three.address)
        measuring.start()
        server = wait_until(lambda: three.ours("-m imdb_serving serve", "simulated"), 120)
        where = _node_of(three, server[0])
        sleep(1.0)
        three.cluster.remove_node(where, allow_graceful=False)
        measuring.join(300)
        assert not measuring.is_alive()
        written = [row for row in Ledger(tmp_path / "adhoc").rows() if row.cell.series == "grid"]
        assert [row.status == FAILED for row in written] == [True, False]
        assert "HostLost" in written[0].error
        assert written[0].nodes != written[1].nodes
        assert rows[0].answered == 6_000
        three.assert_nothing_stays()
    finally:
        three.stop()


def _node_of(three: Nodes, process: psutil.Process) -> Any:
    """The node among whose raylet's processes this one is."""
    for node in [three.cluster.head_node, *three.nodes]:
        raylets = [info.process.pid for info in node.all_processes["raylet"]]
        if {parent.pid for parent in process.parents()} & set(raylets):
            return node
    raise AssertionError("on no node")
