"""What the tests on a Ray cluster share: nodes on this machine, sweeps on them, and what of ours runs there."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from waiting import wait_until

from imdb_serving.cell import Row
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.parameters import GridParams

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ROOT = Path(__file__).parents[2]
MARK = "IMDB_SERVING_TEST_CLUSTER"
GONE_SECONDS = 60.0


class Nodes:
    """A cluster whose nodes, three if no more is said, are all on this machine, and what of ours runs on it."""

    def __init__(self, *cpus: int, **head: Any) -> None:
        """Start it: the first is the head, which `head` says more of."""
        from ray.cluster_utils import Cluster

        self.mark = os.environ[MARK] = uuid.uuid4().hex  # all that it starts inherits this
        first, *others = cpus or (1, 1, 1)
        self.cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": first, "include_dashboard": False, **head}
        )
        self.nodes = [self.cluster.add_node(num_cpus=count) for count in others]
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

    def assert_nothing_stays(self) -> None:
        """Nothing of ours is there any more, soon."""
        assert wait_until(lambda: not self.ours(), GONE_SECONDS), self.ours()

    def stop(self) -> None:
        """Leave it, and end it."""
        from imdb_serving.cluster import ray_nodes

        ray_nodes.leave()
        self.cluster.shutdown()
        os.environ.pop(MARK, None)


def params(nodes: Nodes, folder: Path, **changes: Any) -> GridParams:
    values = {
        "engine": "simulated", "service_time_ms": 2.0, "server_threads": 1, "client_threads": [1, 2], "samples": 60,
        "cluster": nodes.address, "outputs": str(folder), "run": "one",
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


def sweep_file(folder: Path, **changes: Any) -> Path:
    values = {
        "mode": ["rpc", "socket"], "engine": "simulated", "service_time_ms": 2.0, "server_threads": [1],
        "client_threads": [1, 2], "samples": 60, "rounds": 2, "extra_rounds": 0, "twin": False,
    } | changes  # fmt: skip
    path = folder / "nodes.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start_sweep(address: str, path: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "imdb_serving", "sweep", str(path), "--cluster", address]
    return subprocess.Popen(
        [*command, "--outputs", str(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def rows_of(folder: Path) -> list[Row]:
    return Ledger(folder / "nodes").rows() if (folder / "nodes" / "ledger.jsonl").is_file() else []
