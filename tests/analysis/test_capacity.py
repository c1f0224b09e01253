"""How many nodes a load takes: by hand where that can be worked out, refused where it was not measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from imdb_serving.analysis import capacity
from imdb_serving.analysis.capacity import (
    Answer,
    TooFar,
    Way,
    answer,
    node_of,
    on_cores,
    share_of_nodes,
    slower,
    ways,
)
from imdb_serving.analysis.cores import CpuTime, cpu_time, greatest_rate
from imdb_serving.analysis.queueing import spread
from imdb_serving.analysis.usl import Law
from imdb_serving.cell import Cell, Figures, Row
from imdb_serving.cli.capacity import run_capacity
from imdb_serving.errors import ConfigError, DataError
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.measurement.ledger import Ledger


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer requests than is good for a plan."""
    for name, value in {"REQUESTS": 8_000, "TRY_REQUESTS": 2_000, "TRIES": 4, "REPEATS": 3}.items():
        monkeypatch.setattr(capacity, name, value)


def way(workers: int = 4, seconds: float = 0.01, noise: float = 0.01, **changes: Any) -> Way:
    """Workers that take so many seconds each, exponentially, measured in three rounds that differ a little."""
    clients = {
        count: [min(count, workers) / seconds * (1 + noise * number) for number in (-1, 0, 1)]
        for count in (1, 2, 3, 4, 6, 8)
    }
    demands = spread(np.random.default_rng(3).exponential(1.0, 20_000))
    cell = Cell(engine="simulated", server_threads=workers)
    made = Way(cell, clients, {1: clients[8]}, demands, 0.0, workers / seconds)
    return made._replace(**changes)


def nodes(found: Answer | TooFar) -> int | None:
    return found.nodes


def test_a_load_takes_as_many_nodes_as_erlang_says() -> None:
    """Of 400 requests/s at most, at 85 % of that P(wait) is 0.66 and p95 about 56 ms; at half of it 31 ms."""
    one = answer(way(), 340.0, 0.07)
    assert isinstance(one, Answer)
    assert nodes(one) == 1
    assert one.p95_s == pytest.approx(0.056, rel=0.12)
    assert nodes(answer(way(), 600.0, 0.07)) == 2
    assert nodes(answer(way(), 340.0, 0.035)) == 2
    assert one.interval is not None
    assert one.interval[0] <= 1 <= one.interval[1]
    assert one.p95_interval is not None
    assert one.p95_interval[0] <= one.p95_s * 1.1
    assert one.least_p95_s == pytest.approx(-math.log(0.05) * 0.01, rel=0.1)


def test_what_no_number_of_nodes_can_hold_is_known_at_once() -> None:
    found = answer(way(), 340.0, 0.02)  # p95 of 10 ms, exponential, is 30 ms with nobody waiting
    assert isinstance(found, Answer)
    assert (found.nodes, found.interval) == (None, None)


def test_more_than_twice_the_nodes_that_were_measured_is_refused_unless_asked_for() -> None:
    far = answer(way(), 3000.0, 0.06)
    assert isinstance(far, TooFar)
    assert (far.nodes >= 8, far.measured) == (True, 1)
    told = answer(way(), 3000.0, 0.06, extrapolate=True)
    assert isinstance(told, Answer)
    assert told.nodes == far.nodes
    measured = way(nodes={1: [400.0] * 3, 2: [800.0] * 3, 4: [1600.0] * 3})
    assert nodes(answer(measured, 2800.0, 0.06)) == 8


def test_nodes_that_disturb_each_other_are_more() -> None:
    """Two nodes gave 1.6 times one, four 2.4 times: each then has 60 % of what it gives alone."""
    alike, not_alike = {1: [400.0], 2: [640.0], 4: [960.0]}, way()
    slowed = not_alike._replace(nodes=alike)
    assert share_of_nodes(slowed, 4) == pytest.approx(0.6)
    assert share_of_nodes(slowed, 2) == pytest.approx(0.8)
    assert share_of_nodes(not_alike, 4) == 1.0
    assert nodes(answer(not_alike._replace(nodes={1: [400.0], 4: [1600.0]}), 900.0, 0.08)) == 3
    more = answer(slowed, 900.0, 0.08)
    assert isinstance(more, Answer)
    assert (more.nodes or 0) >= 4


def test_open_loops_that_were_slower_than_simulated_lengthen_what_is_told() -> None:
    plain = answer(way(), 200.0, 0.2)
    assert isinstance(plain, Answer)
    loops = ((100.0, 0.06), (200.0, 0.062), (300.0, 0.07))
    slow = answer(way(open_loops=loops), 200.0, 0.2)
    assert isinstance(slow, Answer)
    assert plain.factor == 1.0
    assert slow.factor == pytest.approx(0.062 / plain.p95_s, rel=0.15)
    assert slow.p95_s == pytest.approx(plain.p95_s * slow.factor, rel=0.1)
    quick = way(open_loops=((200.0, 0.001),))
    assert slower(quick, node_of(quick, quick.clients)[0]) == 1.0  # never better than simulated


def test_a_node_is_the_laws_where_it_fits_and_the_means_else_and_no_more_than_its_workers() -> None:
    contended = {count: [100 * count / (1 + 0.1 * (count - 1))] * 2 for count in (1, 2, 3, 4, 6, 8)}
    node, law = node_of(way(bound=1e9), contended)
    assert isinstance(law, Law)
    assert node.rate(5) == pytest.approx(500 / 1.4)
    assert node.rate(100) == node.rate(8)
    few, why = node_of(way(bound=150.0), {2: [100.0], 4: [200.0]})
    assert isinstance(why, str)
    assert [few.rate(count) for count in (1, 2, 3, 4)] == [50.0, 100.0, 150.0, 150.0]


def row(clients: int, number: int, **changes: Any) -> Row:
    """A valid round of two workers of 10 ms, on one node."""
    cell = Cell(**{"engine": "simulated", "server_threads": 2, "client_threads": clients, "samples": 100} | changes)
    rate = cell.rate or min(clients, 2) * 100.0 * (1 + 0.01 * number) * cell.server_nodes
    return Row(
        run="run-a", key=cell.key, cell=cell, round=number, began="", seed=1, card="card", answered=100, requests=100,
        stages=("encode", "send", "queue", "op1", "reply", "decode"), raw="samples/made.parquet",
        means_us={"op1": 10_000.0, "prepro": 100.0, "postpro": 50.0, "total": 10_500.0},
        figures=Figures(throughput=rate, request_rate=rate, p95_us=25_000.0, server_cpu_us=10_100.0 + number),
    )  # fmt: skip


def test_ways_are_told_apart_by_all_but_their_load_and_their_nodes() -> None:
    rows = [row(clients, number) for clients in (1, 2, 4) for number in (1, 2, 3)]
    rows += [row(4, 1, arrivals="poisson", rate=150.0), row(4, 1, mode="flask"), row(4, 1, series="twin")]
    rows += [row(4, 1, server_nodes=2, placement="apart"), row(4, 1, placement="apart")]
    rows.append(msgspec.structs.replace(row(8, 1), status="invalid"))
    found = ways(rows, lambda row: [1.0, 3.0])
    assert [(one.cell.mode, one.cell.placement, sorted(one.clients)) for one in found] == [
        ("rpc", "", [1, 2, 4]), ("flask", "", [4]), ("rpc", "apart", [4]),
    ]  # fmt: skip
    assert [sorted(one.nodes) for one in found] == [[1], [1], [1, 2]]
    first = found[0]
    assert first.open_loops == ((150.0, pytest.approx(0.025)),)
    assert first.beside_s == pytest.approx(150e-6)
    assert first.bound == pytest.approx(200.0)
    assert list(first.demands) == [0.5, 1.5]


def ledger(folder: Path) -> Path:
    infer = np.random.default_rng(1).normal(1e7, 1e5, (100, 1)).astype(np.int64)
    record = ClientRecord(("client_infer",), list(range(100)), np.arange(100), infer)
    for clients in (1, 2, 3, 4, 6, 8):
        for number in (1, 2, 3):
            Ledger(folder).append(row(clients, number), [record])
    return folder


def test_cores_have_time_for_so_many_requests_and_one_process_for_no_more_than_it_passes() -> None:
    assert cpu_time("socket", 1000.0, 900.0) == CpuTime(1000.0, 0.0)
    assert cpu_time("rpc", 1000.0, 900.0) == CpuTime(1000.0, 100.0)
    assert cpu_time("rpc", 1000.0, 1100.0) == CpuTime(1000.0, 0.0)
    assert greatest_rate(8, CpuTime(1000.0)) == pytest.approx(8000.0)
    assert greatest_rate(8, CpuTime(1000.0, 100.0)) == pytest.approx(8000.0)
    assert greatest_rate(48, CpuTime(1000.0, 100.0)) == pytest.approx(10_000.0)


def test_a_way_on_more_cores_gives_what_they_have_time_for() -> None:
    (narrow,) = ways([row(clients, number) for clients in (1, 2) for number in (1, 2, 3)], lambda row: [1.0])
    wide = on_cores(narrow, 12)
    assert wide.cell.server_threads == 12
    assert sorted(wide.clients) == [1, 2, 4, 8, 12, 16, 24]
    assert wide.clients[1] == pytest.approx([101.0, 102.0, 103.0])
    assert wide.clients[8] == pytest.approx([808.0, 816.0, 824.0])
    full = [12e6 / (10_100 + number) for number in (1, 2, 3)]
    assert wide.clients[24] == pytest.approx(full)
    with pytest.raises(DataError, match="no CPU time of rpc was measured"):
        on_cores(way(), 12)


OPTIONS: dict[str, Any] = {"mode": "", "engine": "", "server_threads": 0, "extrapolate": False}


def test_the_command_says_how_many_nodes_and_with_what_doubts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ledger(tmp_path / "made")
    assert run_capacity(folder, rate=300.0, p95=40.0, **OPTIONS) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "300 requests/s with p95 within 40 ms: 2 nodes of 2 server threads, rpc, engine simulated.\n"
    )
    assert "of the 2" in said
    assert "One node less would be full." in said
    assert "3 rounds of 6 client counts; queues simulated" in said
    assert "several nodes were not measured" in said
    assert run_capacity(folder, rate=300.0, p95=40.0, cores=8, **OPTIONS) == 0
    said_of_more = capsys.readouterr().out
    assert said_of_more.startswith("300 requests/s with p95 within 40 ms: 1 node of 8 server threads, rpc")
    assert "COMPUTED for 8 cores from the CPU time of a request (10,103 us, of which one process does 103 for all)" in (
        said_of_more
    )
    assert run_capacity(folder, rate=300.0, p95=5.0, **OPTIONS) == 1
    assert "No number of nodes holds p95 within 5 ms" in capsys.readouterr().out


def test_the_command_refuses_what_is_too_far_and_says_what_to_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ledger(tmp_path / "made")
    with pytest.raises(ConfigError, match=r"about 1\d nodes, and 1 node measured: more than twice") as refused:
        run_capacity(folder, rate=2000.0, p95=40.0, **OPTIONS)
    assert "server_nodes: [1, 2, 4, 8]" in str(refused.value)
    assert run_capacity(folder, rate=2000.0, p95=40.0, **OPTIONS | {"extrapolate": True}) == 0
    assert "EXTRAPOLATED, as you asked" in capsys.readouterr().out
    with pytest.raises(DataError, match="no valid closed-loop cell of that kind"):
        run_capacity(folder, rate=2000.0, p95=40.0, **OPTIONS | {"mode": "flask"})
