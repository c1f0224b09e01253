"""Servers on one host and clients on another are measured as on one machine, and end with whoever had them started."""

from __future__ import annotations

import functools
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, perf_counter_ns, sleep

import psutil
import pytest
from host_kit import running_hosts
from loads import lines_of

from imdb_serving.cell import Cell
from imdb_serving.clients.connect import connect
from imdb_serving.cluster.host import archive_of
from imdb_serving.cluster.remote import (
    Call,
    HostFacts,
    HostProcess,
    HostsTarget,
    RemoteHost,
    RemoteSession,
    ServerOrder,
    at_once,
    shared_cores,
)
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import BundleError, HostLost, ServerStartError, ServingError
from imdb_serving.measurement.measure import Round, measure
from imdb_serving.measurement.models import model_id
from imdb_serving.server_process import ServerSpec
from imdb_serving.timing import CLOCK_ID

ROOT = Path(__file__).parents[2]
LINES = lines_of(60)
Hosts = tuple[list[RemoteHost], list[HostProcess]]


@pytest.fixture(scope="module")
def three() -> Iterator[Hosts]:
    with running_hosts(3) as hosts:
        yield hosts


def order(host: RemoteHost, mode: str = "rpc", **changes: object) -> ServerOrder:
    values = {"engine": EngineSpec("simulated", service_time_ms=1.0), "server_threads": 2}
    return ServerOrder(ServerSpec(mode, **(values | changes)), "127.0.0.1", host.facts.cores)  # type: ignore[arg-type]


def start(hosts: list[RemoteHost], servers: int, clients: int, mode: str = "rpc") -> tuple[RemoteSession, HostsTarget]:
    at_once(hosts, "clear", seconds=60)
    endpoints = at_once(hosts[:servers], "serve", [order(host, mode) for host in hosts[:servers]], seconds=60)
    reach = functools.partial(connect, endpoints, 10.0)
    theirs = hosts[servers:]
    session = RemoteSession(theirs, [host.facts.cores for host in theirs], reach, clients, 10.0)
    return session, HostsTarget(reach, hosts=tuple(hosts))


def context() -> Round:
    return Round("run", 1, 2020, "card", "identity", LINES)


PASSES = 20
REQUESTS = 60 * PASSES
"""Enough for CPU time to be seen, which the system counts in ticks of 10 ms."""


@pytest.mark.parametrize(("servers", "clients", "mode"), [(1, 3, "rpc"), (2, 2, "socket"), (1, 1, "flask")])
def test_all_requests_are_answered_whoever_has_servers_and_clients(
    three: Hosts, servers: int, clients: int, mode: str
) -> None:
    session, target = start(three[0], servers, clients, mode)
    row, records = measure(Cell(samples=60, passes=PASSES, client_threads=clients), context(), session, "", target)
    assert (row.status, row.answered, row.failed_requests, row.unsent) in {
        ("ok", REQUESTS, 0, 0),
        ("invalid", REQUESTS, 0, 0),
    }
    assert {finding.gate for finding in row.findings} <= {"alone", "little"}  # hosts of one machine disturb each other
    assert [len(record.positions) for record in records] == [REQUESTS // clients] * clients
    assert row.figures.server_cpu_us
    assert row.figures.client_cpu_us
    assert session.pids == []


def test_with_several_hosts_of_clients_every_request_of_an_open_loop_is_sent_once(three: Hosts) -> None:
    session, target = start(three[0], 1, 3)
    cell = Cell(samples=60, client_threads=3, arrivals="poisson", rate=200.0)
    row, records = measure(cell, context(), session, "", target)
    assert sorted(position for record in records for position in record.positions) == list(range(60))
    assert (row.requests, row.answered, row.unsent) == (60, 60, 0)


def test_clients_of_all_hosts_begin_together_by_this_clock(three: Hosts) -> None:
    session, target = start(three[0], 1, 2)
    before = perf_counter_ns()
    _, records = measure(Cell(samples=60, client_threads=2), context(), session, "", target)
    begins = [record.window_ns[0] for record in records]
    assert before < min(begins)
    assert max(begins) < min(record.window_ns[1] for record in records)
    assert all((record.starts_ns >= record.window_ns[0]).all() for record in records)


class FarHost(RemoteHost):
    """A host whose clock is five seconds ahead, and whose answers take their time."""

    def __init__(self) -> None:
        self.delays = [0.02, 0.001, 0.03] * 3
        super().__init__("far", "10.0.0.2", self.begin_call)

    def begin_call(self, call: Call, _seconds: float) -> functools.partial[object]:
        return functools.partial(self.answer, call.method)

    def answer(self, method: str) -> object:
        if method == "who":
            return HostFacts("far", (0,), "another clock", "code", 1)
        sleep(self.delays.pop())
        return "another clock", perf_counter_ns() + 5_000_000_000


def test_another_hosts_clock_is_known_by_the_quickest_of_some_exchanges() -> None:
    behind = FarHost().behind_ns()
    assert abs(behind + 5_000_000_000) < 20_000_000  # not by one of those that took longer


def test_on_one_host_clocks_are_not_compared(three: Hosts) -> None:
    assert three[0][0].facts.clock == CLOCK_ID
    assert three[0][0].behind_ns() == 0


def test_math_threads_of_a_server_are_its_own_whatever_the_host_was_told(three: Hosts) -> None:
    """Ray tells its workers OMP_NUM_THREADS."""
    host = three[0][0]
    host.ask("clear", seconds=60)
    host.ask("serve", order(host, engine=EngineSpec("none", math_threads=3)), seconds=60)
    server = next(child for child in psutil.Process(host.facts.pid).children() if "serve" in child.cmdline())
    told = server.environ()
    assert [told[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")] == ["3", "3", "3"]


def test_errors_of_a_host_are_raised_here_with_its_words(three: Hosts) -> None:
    host = three[0][0]
    with pytest.raises(ServerStartError, match="no_such_module"):
        host.ask("serve", order(host, pipeline="no_such_module:make"), seconds=60)
    host.ask("clear", seconds=60)
    with pytest.raises(ServingError, match="no clients were started"):
        host.ask("go", 0)


def test_a_model_is_sent_once_and_is_then_in_the_hosts_cache(
    three: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    checksum = model_id(bundle)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with running_hosts(1) as ((host,), _):
        assert host.ask("find_model", str(bundle), checksum) == str(bundle)
        assert host.ask("find_model", "/not/here", checksum) == ""
        place = host.ask("take_model", archive_of(bundle), checksum)
        assert Path(place).is_relative_to(tmp_path)
        assert host.ask("find_model", "/not/here", checksum) == place
        assert host.ask("take_model", archive_of(bundle), checksum) == place
        with pytest.raises(BundleError, match="was it trained again"):
            host.ask("take_model", archive_of(bundle), "another")
        assert [path.name for path in Path(place).parent.iterdir()] == [checksum]


def test_a_host_that_dies_is_lost_and_nothing_of_it_stays() -> None:
    with running_hosts(2) as (hosts, processes):
        session, target = start(hosts, 1, 2)
        tree = [each for host in hosts for each in psutil.Process(host.facts.pid).children(recursive=True)]
        slow = Round("run", 1, 2020, "card", "identity", lines_of(5_000))
        with pytest.raises(HostLost, match="died"), killed_soon(processes[0].pid):
            measure(Cell(samples=5_000, client_threads=2), slow, session, "", target)
    _, alive = psutil.wait_procs(tree, 30)
    assert not alive


class killed_soon:  # noqa: N801 - it reads as what it does
    """Kills a process half a second into the block."""

    def __init__(self, pid: int) -> None:
        self._killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {pid}"])

    def __enter__(self) -> None:
        """It is under way."""

    def __exit__(self, *_error: object) -> None:
        self._killer.wait(10)


def test_when_the_coordinator_is_killed_nothing_of_its_hosts_stays() -> None:
    code = (
        "import functools, sys, time; sys.path[:0] = sys.argv[1:]\n"
        "import test_hosts as test, host_kit\n"
        "with host_kit.running_hosts(2) as (hosts, _):\n"
        "    test.start(hosts, 1, 2)\n"
        "    print(*(host.facts.pid for host in hosts), flush=True)\n"
        "    time.sleep(60)\n"
    )
    folders = [str(ROOT / "tests" / "cluster"), str(ROOT / "tests" / "experiment")]
    with subprocess.Popen([sys.executable, "-c", code, *folders], stdout=subprocess.PIPE, text=True) as coordinator:
        assert coordinator.stdout
        hosts = [psutil.Process(int(pid)) for pid in coordinator.stdout.readline().split()]
        tree = [*hosts, *(child for host in hosts for child in host.children(recursive=True))]
        assert len(tree) > 5
        os.kill(coordinator.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(tree, 30)
    assert not alive


def test_a_host_that_does_not_answer_is_lost_in_time() -> None:
    with running_hosts(1) as (_, (process,)):
        os.kill(process.pid, signal.SIGSTOP)
        begun = monotonic()
        with pytest.raises(HostLost, match=r"no answer within 0\.5 s"):
            process.ask(Call("who"), 0.5)
        assert monotonic() - begun < 20
        with pytest.raises(HostLost):
            process.ask(Call("who"), 5)


def test_cores_are_shared_out_where_there_are_enough() -> None:
    assert shared_cores(range(48), 24, 1, 24) == (tuple(range(24)), tuple(range(24, 48)))
    assert shared_cores(range(8), 2, 2, 2) == ((0, 1, 2, 3, 4, 5), (6, 7))
    assert shared_cores(range(2), 2, 1, 1) == ((0, 1), (0, 1))


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_the_error_of_a_host_that_died_holds_no_view_on_a_buffer(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 reports one that the garbage collector finds; 3.12 may crash."""
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    host = HostProcess()
    os.kill(host.pid, signal.SIGKILL)
    host._process.wait(20)
    caught: list[HostLost] = []
    try:
        host.ask(Call("echo", (b"0" * size,)), 10)
    except HostLost as error:
        caught.append(error)
    traceback, exports = caught[0].__cause__.__traceback__, []  # type: ignore[union-attr]
    while traceback is not None:
        exports += [one for one in traceback.tb_frame.f_locals.values() if isinstance(one, memoryview)]
        traceback = traceback.tb_next
    assert not [view for view in exports if not isinstance(view.obj, bytes)]
    traceback = None
    caught[0].caught = caught  # type: ignore[attr-defined] # a cycle
    del caught
    host.stop()
    gc.collect()
    assert not unraisable
