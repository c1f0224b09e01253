"""On Ray clusters of other kinds: one that this machine does not belong to, and one whose nodes are not alike."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_kit import Nodes, rows_of, start_sweep, sweep_file
from waiting import wait_until

from imdb_serving.cell import FAILED

pytest.importorskip("ray", reason="Ray is not installed: make ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # Ray's own, to its own developers
]


@pytest.fixture(scope="module")
def gate() -> Iterator[tuple[Nodes, str]]:
    """A cluster with a door for drivers of other machines, and the door's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Nodes(0, 1, 1, ray_client_server_port=port)
    try:
        yield made, f"ray://127.0.0.1:{port}"
    finally:
        made.stop()


def test_a_sweep_from_a_machine_that_does_not_belong_to_the_cluster(gate: tuple[Nodes, str], tmp_path: Path) -> None:
    nodes, address = gate
    path = sweep_file(tmp_path, mode="rpc", rounds=1, placement="apart")
    with start_sweep(address, path, tmp_path) as sweep:
        words, _ = sweep.communicate(timeout=400)
    assert sweep.returncode == 0, words
    rows = [row for row in rows_of(tmp_path) if row.cell.series == "grid"]
    assert [(row.answered, row.failed_requests) for row in rows] == [(60, 0), (60, 0)], words
    nodes.assert_nothing_stays()


def test_a_head_whose_process_for_a_client_ends_at_once_is_asked_again(
    gate: tuple[Nodes, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from imdb_serving.cluster import ray_nodes

    join, failures = ray_nodes.ray.init, [ConnectionAbortedError("Initialization failure"), RuntimeError("failed")]

    def init(*words: object, **options: object) -> object:
        if failures:
            raise failures.pop()
        return join(*words, **options)

    monkeypatch.setattr(ray_nodes.ray, "init", init)
    ray_nodes.join(gate[1])
    try:
        assert len(ray_nodes.nodes()) == 2
        assert not failures
    finally:
        ray_nodes.leave()


def test_nothing_stays_when_such_a_sweep_is_killed(gate: tuple[Nodes, str], tmp_path: Path) -> None:
    nodes, address = gate
    path = sweep_file(tmp_path, samples=20_000, rounds=1, mode="rpc", client_threads=[1], placement="apart")
    with start_sweep(address, path, tmp_path) as sweep:
        assert wait_until(lambda: nodes.ours("serve", "simulated"), 200)
        sweep.kill()
        sweep.communicate(timeout=30)
    nodes.assert_nothing_stays()


def test_nobody_behind_the_address_is_said_with_what_to_do(tmp_path: Path) -> None:
    with start_sweep("ray://127.0.0.1:1", sweep_file(tmp_path), tmp_path) as sweep:
        words, _ = sweep.communicate(timeout=200)
    assert sweep.returncode == 2, words
    assert "no Ray cluster at ray://127.0.0.1:1" in words
    assert "ray start --head" in words


def test_cells_run_on_nodes_alike_and_those_left_out_are_named(tmp_path: Path) -> None:
    nodes = Nodes(0, 2, 2, 3)
    odd = nodes.nodes[-1].node_id
    try:
        with start_sweep(nodes.address, sweep_file(tmp_path, rounds=1), tmp_path) as sweep:
            words, _ = sweep.communicate(timeout=400)
        assert sweep.returncode == 0, words
        left_out = [line for line in words.splitlines() if "is left out" in line]
        assert len(left_out) == 1, words
        assert odd[:6] in left_out[0]
        assert "the CPUs that Ray was told of" in left_out[0]
        rows = [row for row in rows_of(tmp_path) if row.cell.series == "grid" and row.status != FAILED]
        assert len(rows) == 4
        assert not [row.nodes for row in rows if odd[:6] in " ".join(row.nodes)]
        nodes.assert_nothing_stays()
    finally:
        nodes.stop()
