"""Open loops in tables and figures: apart from closed ones, latency beside service time, doubt in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledger_rows import row, rows_of, table

from imdb_serving.cell import Figures, Row
from imdb_serving.report import costs, frames, open_loop, verdict
from imdb_serving.report.charts import bars, latency, threads
from imdb_serving.report.charts import threads as charts

THIS_MACHINE = Path(__file__).parent


def offered(rate: float, number: int, clients: int = 8, **changes: Any) -> Row:
    figures = Figures(
        offered=rate, achieved=rate, throughput=rate, request_rate=rate, p50_us=1000.0, p99_us=rate * 10,
        service_p50_us=900.0, service_p99_us=None if rate < 200 else 2000.0, wall_s=1.0,
    )  # fmt: skip
    made = row(2, clients, number, arrivals="poisson", rate=rate, **changes)
    return msgspec.structs.replace(made, figures=figures, requests=500)


ROWS = [*rows_of(), *(offered(rate, number) for rate in (100.0, 200.0, 300.0) for number in (1, 2, 3))]


def test_open_loops_stand_in_no_plot_with_closed_ones() -> None:
    rows = table(ROWS)
    assert set(frames.cells(rows)["arrivals"]) == {"closed"}
    axes = charts.throughput(rows, THIS_MACHINE).figure().axes[0]
    assert len([line for line in axes.lines if "server thread" in str(line.get_label())]) == 2
    assert open_loop.any_measured(rows)
    assert not open_loop.any_measured(table(rows_of()))


def test_open_loops_alone_have_a_verdict_of_their_own(tmp_path: Path) -> None:
    slow = [msgspec.structs.replace(one, status="invalid") for one in ROWS[-3:]]
    rows = table([*ROWS[-9:-3], *slow])
    assert frames.cells(rows).empty
    made = verdict.verdict(rows, tmp_path)
    first, second, last = made.lines
    assert first.startswith("No verdict on threads: it needs closed loops")
    assert (
        "2 server threads, 8 clients: 200 requests/s offered, p50 1 ms, p99 2 ms from when a request was due" in second
    )
    assert "; at 300: " in second
    assert last == "Sure: medians of 3 rounds."
    assert made.key == ""


def test_rates_of_several_client_counts_are_curves_of_their_own() -> None:
    more = [offered(rate, number, 4) for rate in (100.0, 200.0, 300.0) for number in (1, 2, 3)]
    figure = open_loop.latency(table([*ROWS[-9:], *more]), THIS_MACHINE).figure()
    (axes,) = figure.axes
    drawn = [line for line in axes.lines if len(line.get_xdata()) == 3 and line.get_linestyle() == "-"]
    assert [list(line.get_xdata()) for line in drawn] == [[100, 200, 300]] * 2
    assert {f"rpc, 2 server threads, {count} clients" for count in (4, 8)} <= {
        text.get_text() for text in figure.legends[0].get_texts()
    }


CHARTS = [charts.time, charts.throughput, bars.stages, threads.heat, latency.ecdf]


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("sort", ["open loops", "no server", "all failed"])
def test_what_was_not_measured_is_said_in_place_of_a_chart(chart: Any, sort: str, tmp_path: Path) -> None:
    bare = [row(1, count, number, mode="bare") for count in (1, 2) for number in (1, 2, 3)]
    failed = [msgspec.structs.replace(one, status="failed", error="no server") for one in rows_of()]
    rows = table({"open loops": ROWS[-9:], "no server": bare, "all failed": failed}[sort])
    drawn = chart(rows, tmp_path)
    if sort == "no server" and chart in (charts.time, charts.throughput):
        assert drawn._repr_html_().count("<img ") == len(drawn.charts) == len(drawn.figure().axes) > 0
    else:
        assert drawn.note.startswith("Not measured: ")
        assert "chart-none" in drawn._repr_html_()
    assert bars.cost(rows, tmp_path).note.startswith("Not measured: ")
    assert costs.of_cells(frames.cells(rows), 2).data.empty
    assert verdict.verdict(rows, tmp_path).lines[0].startswith("No verdict")


def test_a_panel_of_which_every_cell_failed_is_left_out(tmp_path: Path) -> None:
    failed = [msgspec.structs.replace(one, status="failed", error="no server") for one in
              (row(2, 1, number, engine="simulated") for number in (1, 2, 3))]  # fmt: skip
    rows = table([*rows_of(), *failed])
    figure = charts.throughput(rows, tmp_path).save(tmp_path, "throughput").figure()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Throughput, engine none"]
    assert (tmp_path / "throughput.png").is_file()


def test_the_table_says_what_was_offered_and_what_cannot_be_told() -> None:
    shown = open_loop.show(table(ROWS)).data
    assert list(shown["offered [requests/s]"]) == ["100", "200", "300"]
    assert list(shown["p99 [ms]"]) == ["1", "2", "3"]
    assert list(shown["service p99 [ms]"]) == ["not certifiable with n 500 (needs 662)", "2", "2"]
    assert set(shown["valid"]) == {"yes"}


def test_the_figure_has_latency_and_service_time_apart() -> None:
    figure = open_loop.latency(table(ROWS), THIS_MACHINE).figure()
    (axes,) = figure.axes
    assert axes.get_xlabel() == "offered [requests/s]"
    assert axes.get_ylabel() == "time of a request [ms]"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(open_loop.WORDS.values()) <= set(labels)
    drawn = {line.get_linestyle(): list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 3}
    assert drawn["--"] == [1.0, 2.0, 3.0]
    assert drawn["-"] == [1.0, 1.0, 1.0]
