"""On a Ray cluster of three nodes: who runs where, and alone.

The nodes are all on this machine, so figures mean nothing here, and gates say so; what is measured is complete.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from ray_kit import Nodes, nodes_of, params

from imdb_serving.errors import ConfigError
from imdb_serving.experiment.grid import run_grid

pytest.importorskip("ray", reason="Ray is not installed: make ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # Ray's own, to its own developers
]


@pytest.mark.parametrize(
    ("changes", "servers", "clients"),
    [
        ({"placement": "shared"}, 1, 0),
        ({"placement": "apart"}, 1, 1),
        ({"placement": "spread", "client_nodes": 2}, 1, 2),
        ({"placement": "apart", "server_nodes": 2, "mode": "flask"}, 2, 1),
        ({"placement": "apart", "mode": "inproc"}, 1, 0),
    ],
)
def test_a_placement_is_what_it_says(
    three: Nodes, tmp_path: Path, changes: dict[str, Any], servers: int, clients: int
) -> None:
    rows = run_grid(params(three, tmp_path, **changes), lambda text: None)
    for row in rows:
        assert (row.answered, row.failed_requests) == (60, 0), row.why
        having, others = nodes_of(row)
        assert len(set(having)) == servers
        assert set(others) == (set(having) if not clients else set(others) - set(having))
        assert len(set(others)) == (clients or 1)
    three.assert_nothing_stays()


def test_a_node_is_a_cells_alone(three: Nodes, tmp_path: Path) -> None:
    """Two cells of two nodes each on three nodes: the second waits until the first has given its nodes back."""
    from imdb_serving.cluster import ray_nodes

    ray_nodes.join(three.address)
    nodes = ray_nodes.nodes()
    assert len(nodes) == 3
    got, give_back = threading.Event(), threading.Event()

    def second() -> None:
        with ray_nodes.hosts_on([nodes, nodes], 100.0):
            got.set()

    with ray_nodes.hosts_on([nodes, nodes], 100.0) as hosts:
        assert len({host.name for host in hosts}) == 2
        waiting = threading.Thread(target=second)
        waiting.start()
        assert not got.wait(8.0)
        with ray_nodes.hosts_on([nodes], 60.0) as (third,):  # the one that is left can be had
            assert third.name not in {host.name for host in hosts}
        assert not got.is_set()
        give_back.set()
    waiting.join(120)
    assert got.is_set()


def test_nodes_that_others_have_are_waited_for_only_so_long(three: Nodes) -> None:
    from imdb_serving.cluster import ray_nodes

    ray_nodes.join(three.address)
    nodes = ray_nodes.nodes()
    with (
        ray_nodes.hosts_on([nodes] * 3, 100.0),
        pytest.raises(ConfigError, match="were not free within 1 s"),
        ray_nodes.hosts_on([nodes], 1.0),
    ):
        pass


def test_more_nodes_than_there_are_is_refused(three: Nodes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a cell needs 5 nodes, 1 of them with servers and alike; there are 3, 3 of"):
        run_grid(params(three, tmp_path, placement="spread", client_nodes=4), lambda text: None)
