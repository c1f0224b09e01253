"""A server and its clients stay on the cores that were named, each worker on its own where there are enough."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.config import number_ranges
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import ConfigError, ServerStartError
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.measurement.local_clients import InprocClient
from imdb_serving.processes import parse_cores, split_cores
from imdb_serving.server_process import ServerProcess

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
HERE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []


@given(st.sets(st.sampled_from(HERE or [0]), min_size=1))
def test_a_list_of_cores_can_be_written_and_read(cores: set[int]) -> None:
    assert parse_cores(number_ranges(sorted(cores))) == sorted(cores)


@pytest.mark.parametrize("words", ["", "a", "3-1", "0,", "-1", "0-", "1 2", "0x1", "99999999999"])
def test_what_is_no_list_of_cores_is_refused(words: str) -> None:
    with pytest.raises(ConfigError, match="expected a list like 0-3,6"):
        parse_cores(words)


def test_cores_that_are_not_to_be_had_are_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=f"cores: 987654 cannot be used here; those that can: {number_ranges(HERE)}"):
        parse_cores("987654")


def test_each_worker_has_as_many_cores_as_math_threads_or_none_has_its_own() -> None:
    assert split_cores([4, 5, 6, 7], 2, 1) == [[4], [5]]
    assert split_cores([4, 5, 6, 7], 2, 2) == [[4, 5], [6, 7]]
    assert split_cores([4, 5, 6, 7], 3, 2) == []


def affinity(task: Path) -> str:
    status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
    return status["Cpus_allowed_list"]


def affinities(server: ServerProcess) -> list[str]:
    """Return where each thread of a server and its children may run; one that ends meanwhile has no say."""
    found = []
    for process in [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            for thread in process.threads():
                with suppress(FileNotFoundError, ProcessLookupError):
                    found.append(affinity(Path(f"/proc/{process.pid}/task/{thread.id}")))
    return found


@pytest.mark.parametrize("command", ["serve", "flask", "flask-gateway"])
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_all_of_a_server_stays_on_its_cores_and_each_worker_on_one(command: str, kind: str) -> None:
    arguments = ["--engine", "none", "--worker-kind", kind, "--server-threads", "1", "--cores", str(HERE[-1])]
    with ServerProcess(arguments, command=command) as server:
        found = affinities(server)
        assert len(found) > 1
        assert set(found) == {str(HERE[-1])}


@pytest.mark.skipif(len(HERE) < 2, reason="one core is each worker's own already")
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_two_workers_have_a_core_each(kind: str) -> None:
    arguments = [
        "--engine",
        "none",
        "--worker-kind",
        kind,
        "--server-threads",
        "2",
        "--cores",
        number_ranges(HERE[:2]),
    ]
    with ServerProcess(arguments) as server:
        assert {str(HERE[0]), str(HERE[1]), number_ranges(HERE[:2])} == set(affinities(server))


def test_a_server_whose_cores_are_not_to_be_had_says_so() -> None:
    with pytest.raises(ServerStartError, match="cores: 987654 cannot be used here"):
        ServerProcess(["--engine", "none", "--cores", "987654"]).start()


def test_clients_stay_on_their_cores() -> None:
    connect = {"": partial(InprocClient, EngineSpec("none"), None)}
    with LoadSession(connect, 1, 5.0, cores=HERE[-1:]) as session:
        assert [affinity(Path(f"/proc/{pid}")) for pid in session.pids] == [str(HERE[-1])]
    with LoadSession(connect, len(HERE) + 1, 5.0, cores=HERE) as session:
        assert {affinity(Path(f"/proc/{pid}")) for pid in session.pids} == {number_ranges(HERE)}
