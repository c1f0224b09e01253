"""How cost grows: every value with every mode in every round, many clients of few processes, tables and figure."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

pytest.importorskip("psutil")

from imdb_serving.cell import Cell
from imdb_serving.clients.connect import connect
from imdb_serving.errors import ConfigError, DataError
from imdb_serving.experiment.scaling import AXES, cells, measure_scaling, value_on, workloads
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.load.closed_loop import Share
from imdb_serving.load.workload import UniformWorkload
from imdb_serving.measurement.ledger import Ledger, read_samples
from imdb_serving.measurement.parameters import ScalingParams
from imdb_serving.report import scaling as shown
from imdb_serving.server_process import ServerProcess

SMALL = ScalingParams(
    workers=[1, 2], processes=[1, 2], clients=[1, 20], words=[8], batch=[1, 3], seconds=0.02, rounds=2, run="one"
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small measurement on all axes."""
    folder = tmp_path_factory.mktemp("growth")
    measure_scaling(SMALL, folder, lambda words: None)
    return folder


def test_every_point_is_measured_with_every_mode_in_every_round(measured: Path) -> None:
    rows = Ledger(measured).rows()
    found = {(row.cell, row.round) for row in rows}
    assert len(rows) == len(found)
    assert found == {(cell, round_) for cell in cells(SMALL) for round_ in (1, 2)}
    for row in rows:
        assert row.requests >= 5 * row.cell.client_threads
        assert row.figures.throughput > 0
        assert (measured / row.raw).is_file()


def test_a_cell_is_on_the_axes_of_which_it_has_the_usual_values_else() -> None:
    usual, many, *_ = [cell for cell in cells(SMALL) if cell.engine == "none" and cell.mode == "rpc"]
    assert [value_on(axis, usual) for axis in AXES] == [None, None, 1, 200, 1]
    assert [value_on(axis, many) for axis in AXES] == [None, None, 20, None, None]


def test_the_tables_have_every_value_and_the_figure_every_axis(measured: Path) -> None:
    rows = shown.load(measured)
    tables = shown.text(rows).split("\n\n")
    assert len(tables) == len(AXES)
    for axis, table in zip(AXES, tables, strict=True):
        values = [line.split()[0] for line in table.splitlines()[3:]]
        usual = {"words": {200}, "workers": {8}}.get(axis, set())  # a cell of another axis that is on this one as well
        assert values == [str(value) for value in sorted({*getattr(SMALL, axis), *usual})]
        assert ("of ideal" in table) == (axis == "workers")
        assert ("µs/review" in table) == (axis == "batch")
    figure = shown.charts(rows, "").figure()
    assert [axes.get_xlabel() for axes in figure.axes] == [shown.SHOWN[axis].label for axis in AXES]


def test_no_more_workers_are_at_work_than_there_are(measured: Path) -> None:
    """Throughput times service time: it holds however long each sleep came out on a busy machine."""
    rows = [row for row in Ledger(measured).rows() if row.cell.engine == "simulated"]
    assert rows
    for row in rows:
        service_s = read_samples(measured, row.raw, ["op1_ns"])["op1_ns"].mean() / 1e9
        rate = row.answered / row.figures.wall_s
        assert rate * service_s <= row.cell.server_threads * (1 + 1e-9)


def test_the_ideal_is_what_workers_do_that_lose_no_time(measured: Path) -> None:
    rows = shown.load(measured)
    workers = rows[rows["axis"] == "workers"]
    ideal = 1000 * workers["value"] / workers["service_time_ms"]
    assert list(workers["of_ideal"]) == pytest.approx(list(workers["throughput"] / ideal))


def test_the_shares_hold_all_requests_and_are_even() -> None:
    counts = [workload.count for workload in workloads(Cell(client_threads=50, samples=203))]
    assert (sum(counts), len(counts)) == (203, 50)
    assert max(counts) - min(counts) == 1


def test_clients_in_few_processes_send_all_requests_and_report_failures() -> None:
    with ServerProcess(["--engine", "none", "--server-threads", "1"]) as server:
        targets = {"rpc": functools.partial(connect, server.endpoint, 10.0)}
        with LoadSession(targets, 5, 10.0, processes=2) as session:
            assert len(session.pids) == 2
            counts = [4, 3, 6, 2, 5]
            records = session.run("rpc", [Share.whole(UniformWorkload(count, 5, 1)) for count in counts])
            assert [len(record.positions) for record in records] == counts
            assert [len(record.durations) for record in records] == counts
            assert not any(record.failures for record in records)
            assert records[0].cpu_s == records[2].cpu_s > 0  # of one process
            refused = session.run(
                "rpc", [Share.whole(UniformWorkload(2, 1 << 17, 1)), Share.whole(UniformWorkload(2, 5, 1))]
            )
            assert [failure.code for failure in refused[0].failures] == ["bad_request"] * 2
            assert [len(record.positions) for record in refused] == [0, 2]


def test_without_rows_there_is_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no ledger"):
        shown.load(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"workers": [0]}, "workers"),
        ({"processes": [16]}, "processes: must be at most 8"),
        ({"rounds": 1}, "an interval needs at least 2"),
        ({"seconds": 0.0}, "seconds: must be above 0"),
        ({"service_time_ms": float("nan")}, "service_time_ms: must be above 0"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ScalingParams(**wrong)
