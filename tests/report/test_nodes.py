"""Throughput against nodes: the best of each number of nodes, the law over them, and which machines they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from ledger_rows import row, table

from imdb_serving.analysis.bounds import bounds, cores_us, utilisation, workers_of
from imdb_serving.cell import Row
from imdb_serving.measurement.environment import write_card
from imdb_serving.report import frames, tables
from imdb_serving.report.charts import nodes


def on_nodes(count: int, clients: int, round_: int, rate: float, **changes: Any) -> Row:
    """A cell on so many server nodes, with clients on another."""
    made = row(2, clients, round_, placement="apart", server_nodes=count, client_nodes=1, **changes)
    figures = msgspec.structs.replace(made.figures, throughput=rate, request_rate=rate)
    names = (*(f"server on 10.0.0.{number}" for number in range(1, count + 1)), "clients on 10.0.0.99")
    return msgspec.structs.replace(made, figures=figures, nodes=names)


def measured(counts: range) -> list[Row]:
    """With four clients a third of what eight give, which scale with a contention of 5 %."""
    return [
        on_nodes(count, clients, number, share * 1000 * count / (1 + 0.05 * (count - 1)))
        for count in counts
        for number in (1, 2, 3)
        for clients, share in ((4, 1 / 3), (8, 1.0))
    ]


def test_the_best_client_count_of_each_number_of_nodes_is_drawn_with_the_law(tmp_path: Path) -> None:
    rows = table(measured(range(1, 8)))
    assert nodes.any_measured(rows)
    (line,) = nodes.lines(rows)
    assert line.name == "rpc, 2 threads"
    assert list(line.cells["client_threads"]) == [8] * 7
    assert list(line.cells["server_nodes"]) == list(range(1, 8))
    assert not isinstance(line.law, str)
    assert line.law.alpha == pytest.approx(0.05, abs=1e-6)
    charts = nodes.nodes(rows, tmp_path)
    assert [chart.title for chart in charts.charts] == ["Throughput against nodes"]
    assert "contention 0.050 [0.050, 0.050]" in charts.note
    assert "perfect scaling" in charts._repr_html_()
    charts.save(tmp_path, "nodes")
    assert (tmp_path / "nodes.png").is_file()


def test_too_few_numbers_of_nodes_have_no_law_and_say_so(tmp_path: Path) -> None:
    charts = nodes.nodes(table(measured(range(1, 4))), tmp_path)
    assert "no law, 3 node counts are measured, the law needs 6" in charts.note


def test_one_machine_has_no_such_chart() -> None:
    rows = table([row(1, clients, number) for clients in (1, 2) for number in (1, 2, 3)])
    assert not nodes.any_measured(rows)
    assert tables.machines(rows).empty
    assert tables.clocks(rows) == ""


def test_the_report_says_which_machines_had_what() -> None:
    shown = tables.machines(table(measured(range(1, 3))))
    assert shown.to_numpy().tolist() == [
        ["10.0.0.1", "server", 12], ["10.0.0.2", "server", 6], ["10.0.0.99", "clients", 12],
    ]  # fmt: skip


def test_the_report_says_how_well_clocks_were_known() -> None:
    rows = table([row(1, 1, number, clock_bound_us=bound) for number, bound in ((1, 50.0), (2, 70.0), (3, 90.0))])
    assert "may be wrong by 70 µs (at most 90)" in tables.clocks(rows)


def test_workers_and_cores_of_all_nodes_count() -> None:
    cell = {
        "server_threads": 2, "server_nodes": 3, "client_nodes": 2, "server_cpu_us": 300.0, "client_cpu_us": 100.0,
        "client_threads": 20, "mode": "rpc", "stages": ("op1",), "op1_us": 200.0, "request_rate": 10_000.0,
        "worker_kind": "process", "queue_us": 0.0, "total_us": 900.0,
    }  # fmt: skip
    assert workers_of(cell) == 6
    assert cores_us(cell, 4) == pytest.approx(300 / 3 / 4)
    assert cores_us(cell | {"server_nodes": 6}, 4) == pytest.approx(100 / 2 / 4)
    assert cores_us(cell | {"client_nodes": 0}, 4) == pytest.approx(400 / 4)
    busy = utilisation(cell, 4)
    assert busy.workers == pytest.approx(0.01 * 200 / 6)
    assert busy.cores == pytest.approx(0.01 * 25)
    assert bounds(pd.DataFrame([cell]), 4).workers == pytest.approx(6 * 1e6 / 200)


def test_a_title_says_where_clients_were(tmp_path: Path) -> None:
    write_card(tmp_path, {"id": "card", "cores_allowed": 48})
    both = table([*measured(range(1, 2)), *[row(1, 1, number) for number in (1, 2, 3)]])
    assert frames.machine_note(both, tmp_path) == (
        "clients and server share 48 cores; clients and servers on different nodes of 48 cores"
    )
