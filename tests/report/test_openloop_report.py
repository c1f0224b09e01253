"""Open loops in tables and figures: apart from closed ones, latency beside service time, doubt in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledger_rows import row, rows_of, table

from imdb_serving.bench.record.rows import Figures, Row
from imdb_serving.errors import DataError
from imdb_serving.report import curves, frames, openloop

HERE = Path(__file__).parent


def offered(rate: float, number: int, **changes: Any) -> Row:
    figures = Figures(
        offered=rate, achieved=rate, throughput=rate, request_rate=rate, p50_us=1000.0, p99_us=rate * 10,
        service_p50_us=900.0, service_p99_us=None if rate < 200 else 2000.0, wall_s=1.0,
    )  # fmt: skip
    made = row(2, 8, number, arrivals="poisson", rate=rate, **changes)
    return msgspec.structs.replace(made, figures=figures, requests=500)


ROWS = [*rows_of(), *(offered(rate, number) for rate in (100.0, 200.0, 300.0) for number in (1, 2, 3))]


def test_open_loops_stand_in_no_plot_with_closed_ones() -> None:
    rows = table(ROWS)
    assert set(frames.cells(rows)["arrivals"]) == {"closed"}
    axes = curves.throughput_figure(rows, HERE).axes[0]
    assert len([line for line in axes.lines if "server thread" in str(line.get_label())]) == 2
    assert openloop.any_measured(rows)
    assert not openloop.any_measured(table(rows_of()))
    with pytest.raises(DataError, match="no cell succeeded"):
        frames.cells(table(ROWS[-3:]))


def test_the_table_says_what_was_offered_and_what_cannot_be_told() -> None:
    shown = openloop.show(table(ROWS)).data
    assert list(shown["offered [requests/s]"]) == ["100", "200", "300"]
    assert list(shown["p99 [ms]"]) == ["1", "2", "3"]
    assert list(shown["service p99 [ms]"]) == ["not certifiable with n 500 (needs 662)", "2", "2"]
    assert set(shown["valid"]) == {"yes"}


def test_the_figure_has_latency_and_service_time_apart() -> None:
    figure = openloop.figure(table(ROWS), HERE)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "offered [requests/s]"
    assert axes.get_ylabel() == "time of a request [ms]"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(openloop.WORDS.values()) <= set(labels)
    drawn = {line.get_linestyle(): list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 3}
    assert drawn["--"] == [1.0, 2.0, 3.0]
    assert drawn["-"] == [1.0, 1.0, 1.0]
