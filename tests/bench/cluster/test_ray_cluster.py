"""On a Ray cluster of three nodes: who runs where, alone, again, and that nothing stays, however it ends.

The nodes are all on this machine, so figures mean nothing here, and gates say so; what is measured is complete.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import pytest

from imdb_serving.bench.parameters import GridParams
from imdb_serving.bench.record.ledger import Ledger
from imdb_serving.bench.record.rows import FAILED, Row
from imdb_serving.bench.runs.grid import run_grid
from imdb_serving.errors import ConfigError

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
pytest.importorskip("ray", reason="Ray is not installed: make ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # Ray's own, to its own developers
]
ROOT = Path(__file__).parents[3]
MARK = "IMDB_SERVING_TEST_CLUSTER"
GONE_SECONDS = 60.0


class ThreeNodes:
    """A cluster of three nodes with a CPU each, and what of ours runs on it."""

    def __init__(self, head_cpus: int = 1) -> None:
        from ray.cluster_utils import Cluster

        self.mark = os.environ[MARK] = uuid.uuid4().hex  # all that it starts inherits this
        self.cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": head_cpus, "include_dashboard": False}
        )
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.address: str = self.cluster.address

    def ours(self, *words: str) -> list[psutil.Process]:
        """Our processes on its nodes: hosts, servers, clients and what they fork; with these words, if any."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                inherited = process.environ().get(MARK) == self.mark
                if inherited and os.getpid() not in {process.pid, process.ppid()}:  # not this test's own fork server
                    own = "imdb_serving" in line or "multiprocessing" in line or "ipykernel" in line
                    if own and "ray::" not in line and all(word in line for word in words):
                        found.append(process)
        return found

    def wait_for(self, seen: Callable[[], Any], seconds: float = 120.0) -> Any:
        """Wait until something can be seen, and return it."""
        until = monotonic() + seconds
        while monotonic() < until:
            if found := seen():
                return found
            sleep(0.1)
        raise AssertionError(f"not seen within {seconds} s")

    def assert_nothing_stays(self) -> None:
        """Nothing of ours is there any more, soon."""
        with suppress(AssertionError):
            self.wait_for(lambda: not self.ours(), GONE_SECONDS)
        assert not [" ".join(process.cmdline()) for process in self.ours()]


@pytest.fixture(scope="module")
def three() -> Iterator[ThreeNodes]:
    from imdb_serving.bench.cluster import ray_nodes

    made = ThreeNodes()
    try:
        yield made
    finally:
        ray_nodes.leave()
        made.cluster.shutdown()
        os.environ.pop(MARK, None)


def params(three: ThreeNodes, folder: Path, **changes: Any) -> GridParams:
    values = {
        "engine": "simulated", "service_time_ms": 2.0, "server_threads": 1, "client_threads": [1, 2], "samples": 60,
        "cluster": three.address, "outputs": str(folder), "run": "one",
    }  # fmt: skip
    return GridParams(**(values | changes))  # type: ignore[arg-type]


def nodes_of(row: Row) -> tuple[list[str], list[str]]:
    """The names of the nodes that had servers, and of those that had clients."""
    servers, clients = [], []
    for words in row.nodes:
        who, _, name = words.rpartition(" on ")
        servers += [name] if "server" in who else []
        clients += [name] if "clients" in who else []
    return servers, clients


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
    three: ThreeNodes, tmp_path: Path, changes: dict[str, Any], servers: int, clients: int
) -> None:
    rows = run_grid(params(three, tmp_path, **changes), lambda text: None)
    for row in rows:
        assert (row.answered, row.failed_requests) == (60, 0), row.why
        having, others = nodes_of(row)
        assert len(set(having)) == servers
        assert set(others) == (set(having) if not clients else set(others) - set(having))
        assert len(set(others)) == (clients or 1)
    three.assert_nothing_stays()


def test_a_node_is_a_cells_alone(three: ThreeNodes, tmp_path: Path) -> None:
    """Two cells of two nodes each on three nodes: the second waits until the first has given its nodes back."""
    from imdb_serving.bench.cluster import ray_nodes

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


def test_nodes_that_others_have_are_waited_for_only_so_long(three: ThreeNodes) -> None:
    from imdb_serving.bench.cluster import ray_nodes

    ray_nodes.join(three.address)
    nodes = ray_nodes.nodes()
    with (
        ray_nodes.hosts_on([nodes] * 3, 100.0),
        pytest.raises(ConfigError, match="were not free within 1 s"),
        ray_nodes.hosts_on([nodes], 1.0),
    ):
        pass


def test_more_nodes_than_there_are_is_refused(three: ThreeNodes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a cell needs 5 nodes, 1 of them with servers and alike; there are 3, 3 of"):
        run_grid(params(three, tmp_path, placement="spread", client_nodes=4), lambda text: None)


def sweep_file(folder: Path, **changes: Any) -> Path:
    import yaml

    values = {
        "mode": ["rpc", "socket"], "engine": "simulated", "service_time_ms": 2.0, "server_threads": [1],
        "client_threads": [1, 2], "samples": 60, "rounds": 2, "extra_rounds": 0, "twin": False,
    } | changes  # fmt: skip
    path = folder / "nodes.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start_sweep(three: ThreeNodes, path: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "imdb_serving", "sweep", str(path), "--cluster", three.address]
    return subprocess.Popen(
        [*command, "--outputs", str(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def rows_of(folder: Path) -> list[Row]:
    return Ledger(folder / "nodes").rows() if (folder / "nodes" / "ledger.jsonl").is_file() else []


def test_a_sweep_runs_side_by_side_stops_at_ctrl_c_and_goes_on(three: ThreeNodes, tmp_path: Path) -> None:
    path = sweep_file(tmp_path)
    sweep = start_sweep(three, path, tmp_path)
    with sweep:
        three.wait_for(lambda: [row for row in rows_of(tmp_path) if row.cell.series == "grid"], 200)
        sweep.send_signal(signal.SIGINT)
        words, _ = sweep.communicate(timeout=90)
    assert sweep.returncode == 130, words
    assert "the same command goes on where this one stopped" in words
    three.assert_nothing_stays()
    before = [row for row in rows_of(tmp_path) if row.cell.series == "grid"]
    assert 0 < len(before) < 8

    with start_sweep(three, path, tmp_path) as sweep:
        words, _ = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, words
    rows = [row for row in rows_of(tmp_path) if row.cell.series == "grid"]
    assert len({(row.key, row.round) for row in rows if row.status != FAILED}) == 8
    assert len([row for row in rows if row.status != FAILED]) == 8  # none was measured twice
    assert len({node for row in rows for node in row.nodes}) > 1  # side by side
    for node in {node for row in rows for node in row.nodes}:  # which goes through the rounds one after another
        rounds = [row.round for row in rows if node in row.nodes and row.status != FAILED]
        assert rounds == sorted(rounds)
    assert (tmp_path / "nodes" / "report.html").is_file()
    three.assert_nothing_stays()


@pytest.mark.parametrize("victim", ["driver", "relay", "host", "kernel"])
def test_whoever_is_killed_no_process_of_ours_stays(three: ThreeNodes, tmp_path: Path, victim: str) -> None:
    path = sweep_file(tmp_path, samples=20_000, rounds=1, mode="rpc", client_threads=[1], placement="apart")
    sweep = start_sweep(three, path, tmp_path)
    with sweep:
        three.wait_for(lambda: any("simulated" in " ".join(one.cmdline()) for one in three.ours("serve")), 200)
        sleep(1.0)  # in the middle of the cell
        victims = {
            "driver": lambda: [psutil.Process(sweep.pid)],
            "host": lambda: three.ours("bench.cluster.host"),
            "kernel": lambda: three.ours("ipykernel"),
            "relay": lambda: [one.parent() for one in three.ours("bench.cluster.host")],
        }[victim]()
        assert victims
        for process in victims:
            process.kill()
        if victim == "driver":
            sweep.communicate(timeout=30)
        else:
            three.wait_for(lambda: [row for row in rows_of(tmp_path) if row.cell.series == "grid"], 200)
            sweep.terminate()
            sweep.communicate(timeout=60)
    three.assert_nothing_stays()


def test_a_cell_whose_node_dies_fails_and_is_measured_on_another(tmp_path: Path) -> None:
    from imdb_serving.bench.cluster import ray_nodes

    ray_nodes.leave()
    three = ThreeNodes(head_cpus=0)  # the head's end would be the cluster's
    try:
        rows: list[Row] = []
        long = params(three, tmp_path, samples=6_000, client_threads=[1], placement="shared")
        measuring = threading.Thread(target=lambda: rows.extend(run_grid(long, lambda text: None)))
        ray_nodes.join(three.address)
        measuring.start()
        server = three.wait_for(lambda: [one for one in three.ours("serve", "simulated") if "clien" not in one.name()])
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
        ray_nodes.leave()
        three.cluster.shutdown()
        os.environ.pop(MARK, None)


def _node_of(three: ThreeNodes, process: psutil.Process) -> Any:
    """The node among whose raylet's processes this one is."""
    for node in [three.cluster.head_node, *three.nodes]:
        raylets = [info.process.pid for info in node.all_processes["raylet"]]
        if {parent.pid for parent in process.parents()} & set(raylets):
            return node
    raise AssertionError("on no node")
