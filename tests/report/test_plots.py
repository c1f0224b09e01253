"""Figures: drawn from rows, labelled with units, told apart by a legend, saved as PNG and SVG."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ledger_rows import failed, grid, row, rows_of, table
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from imdb_serving.cell import Finding
from imdb_serving.messages import Reply
from imdb_serving.report import frames, grid_report, style, tables
from imdb_serving.report.charts import bars, curves, latency, threads
from imdb_serving.timing import CLIENT_STAGES, STAGES, Stage

THIS_MACHINE = Path(__file__).parent
"""A folder without cards."""


def reply() -> Reply:
    return Reply({}, [Stage(name, 1000 * n, 1000 * n + 900) for n, name in enumerate(CLIENT_STAGES)])


def time_figure(rows: pd.DataFrame) -> Figure:
    return threads.time(rows, THIS_MACHINE).figure()


def throughput_figure(rows: pd.DataFrame) -> Figure:
    return threads.throughput(rows, THIS_MACHINE).figure()


def stage_figure(rows: pd.DataFrame) -> Figure:
    return bars.stages(rows, THIS_MACHINE).figure()


BOTH = grid(modes=("rpc", "flask"))

FIGURES: dict[str, Callable[[], Figure]] = {
    "grid": lambda: grid_report.figure(grid(servers=(2,)), THIS_MACHINE),
    "time": lambda: time_figure(BOTH),
    "throughput": lambda: throughput_figure(grid()),
    "stage": lambda: stage_figure(BOTH),
    "timeline": lambda: latency.of_reply(reply()).figure(),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_saved_for_pages_and_for_papers(name: str, tmp_path: Path) -> None:
    figure = FIGURES[name]()
    assert style.save(figure, tmp_path / "figures", name) is figure
    assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    assert (tmp_path / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", FIGURES)
def test_axes_say_what_they_show_with_its_unit(name: str) -> None:
    figure = FIGURES[name]()
    labels = [label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel()) if label]
    assert any(re.search(r"\[(s|ms|µs|samples/s)\]$", label) for label in labels)
    assert all(label == "client threads" or label.endswith("]") for label in labels)
    assert all(axes.get_xlabel() for axes in figure.axes)


def legend(figure: Figure) -> list[str]:
    boxes = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for box in boxes for text in box.get_texts()]


@pytest.mark.parametrize("name", ["time", "throughput"])
def test_curves_are_told_apart_by_server_threads(name: str) -> None:
    figure = FIGURES[name]()
    assert {"1 server thread", "2 server threads"} <= set(legend(figure))


def test_the_published_curves_stand_beside_ours() -> None:
    figure = FIGURES["time"]()
    (axes,) = figure.axes  # one pair of axes for both modes
    grey = [line for line in axes.lines if line.get_color() == curves.PUBLISHED_GREY]
    ours = [line for line in axes.lines if "server thread" in str(line.get_label())]
    assert (len(grey), len(ours)) == (6 + 1, 2 * 2)
    assert sum("published 2020" in text for text in legend(figure)) == 2


def test_modes_are_told_apart_by_the_line_and_server_threads_by_the_colour() -> None:
    figure = FIGURES["time"]()
    ours = {str(line.get_label()): line for line in figure.axes[0].lines if "server thread" in str(line.get_label())}
    styles = {name: (line.get_linestyle(), line.get_color()) for name, line in ours.items()}
    for count in ("1 server thread", "2 server threads"):
        rpc, flask = styles[f"rpc, {count}"], styles[f"flask, {count}"]
        assert (rpc[0], flask[0]) == ("-", "--")
        assert rpc[1] == flask[1]
    assert len({colour for _, colour in styles.values()}) == 2
    assert {"rpc", "flask"} <= set(legend(figure))


def test_seven_server_counts_have_the_marker_of_their_legend_and_of_no_other() -> None:
    figure = throughput_figure(grid(servers=(1, 2, 3, 4, 6, 8, 12), clients=(1, 2), rounds=1))
    lines = {str(line.get_label()): line.get_marker() for line in figure.axes[0].lines}
    drawn = {name.split(", ")[1]: marker for name, marker in lines.items() if "server thread" in name}
    entries: Any = figure.legends[0].legend_handles
    handles = {str(handle.get_label()): handle.get_marker() for handle in entries}
    assert len(set(drawn.values())) == 7
    assert drawn == {name: marker for name, marker in handles.items() if "server thread" in name}


@pytest.mark.parametrize("name", ["grid", "stage"])
def test_every_stage_is_in_the_legend_with_a_colour_of_its_own(name: str) -> None:
    figure = FIGURES[name]()
    assert set(STAGES) <= set(legend(figure))
    assert len({style.STAGE_COLOURS[stage] for stage in STAGES}) == len(STAGES)


def test_ops_of_ones_own_have_colours_of_their_own() -> None:
    names = (*CLIENT_STAGES[:-2], "round", "clip", *CLIENT_STAGES[-2:])
    figure = stage_figure(grid(modes=("rpc", "flask"), stages=names))
    assert {"round", "clip"} <= set(legend(figure))
    colours = style.stage_colours(["prepro", *names, "postpro"])
    assert len(set(colours.values())) == len(colours)


def test_stacked_stages_reach_the_total() -> None:
    rows = grid(servers=(2,), rounds=1, stages=(*CLIENT_STAGES[:-2], "round", *CLIENT_STAGES[-2:]))
    figure = grid_report.figure(rows, THIS_MACHINE)
    stacks = zip(*figure.axes[0].containers, strict=True)
    tops = [max(bar.get_y() + bar.get_height() for bar in stack) for stack in stacks]
    assert tops == pytest.approx(list(rows["total_s"]))


def test_a_curve_is_the_cells_throughput() -> None:
    figure = throughput_figure(grid())
    clients, own = tables.curve(frames.cells(grid()), 1, "rpc", "")
    line = next(line for line in figure.axes[0].lines if line.get_label() == "rpc, 1 server thread")
    assert list(line.get_xdata()) == list(clients)
    assert list(line.get_ydata()) == pytest.approx(list(own["throughput"]))


@pytest.mark.parametrize("draw", [throughput_figure, stage_figure, time_figure])
def test_failed_cells_are_left_out(draw: Callable[[pd.DataFrame], Figure]) -> None:
    for more in ([failed(1, 8)], [failed(4, 1), failed(4, 2)]):
        drawn, without = draw(table([*rows_of(), *more])), draw(table(rows_of()))
        assert [len(axes.lines) for axes in drawn.axes] == [len(axes.lines) for axes in without.axes]


def test_cells_that_are_not_valid_are_hollow_and_the_legend_says_so() -> None:
    bad = [row(1, 8, r, status="invalid", findings=(Finding("alone", "others"),)) for r in (1, 2, 3)]
    figure = throughput_figure(table([*rows_of(servers=(1,)), *bad]))
    hollow = [
        line
        for line in figure.axes[0].lines
        if to_hex(line.get_markerfacecolor()) == "#ffffff" and len(line.get_xdata())
    ]
    assert [list(line.get_xdata()) for line in hollow] == [[8]]
    assert "not valid: see the report" in legend(figure)
    assert "not valid: see the report" not in legend(throughput_figure(grid()))


def several() -> pd.DataFrame:
    modes = ("rpc", "socket", "flask")
    return table(
        [*rows_of(modes=modes, engine="folded"), *rows_of(modes=modes, engine="paddle", worker_kind="process")]
    )


@pytest.mark.parametrize(("draw", "what"), [(time_figure, "Time"), (throughput_figure, "Throughput")])
def test_each_engine_has_a_panel_and_each_mode_a_line(draw: Callable[[pd.DataFrame], Figure], what: str) -> None:
    figure = draw(several())
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        f"{what}, engine {name}" for name in ("paddle", "folded")
    ]
    for axes in figure.axes:
        ours = [line for line in axes.lines if "server thread" in str(line.get_label())]
        assert len(ours) == 6
        assert len({str(line._unscaled_dash_pattern) for line in ours}) == 3
    assert {"rpc", "socket", "flask"} <= set(legend(figure))
    assert len(legend(figure)) == len(set(legend(figure)))


def test_more_modes_than_common_line_styles_are_drawn_apart() -> None:
    modes = ("rpc", "flask", "socket", "flask-gateway", "flask-dev")
    figure = throughput_figure(table([*rows_of(modes=modes), *rows_of(modes=("flask",), client_kind="curl")]))
    drawn = [line for line in figure.axes[0].lines if "server thread" in str(line.get_label())]
    assert len({str(line._unscaled_dash_pattern) for line in drawn}) == 6


def test_the_stages_of_several_engines_have_rows_of_one_engine_and_one_scale() -> None:
    figure = stage_figure(several())
    drawn = [axes for axes in figure.axes if axes.axison]
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in drawn]
    counts = ("1 server thread", "2 server threads")
    assert titles == [
        f"{mode}, {count}, engine {engine}"
        for engine in ("paddle", "folded")
        for mode in ("rpc", "socket", "flask")
        for count in counts
    ]


def test_the_bare_engine_is_one_curve_of_loops() -> None:
    bare = [row(count, count, mode="bare", endpoint="", stages=("op0", "op1")) for count in (1, 2)]
    figure = throughput_figure(table([*rows_of(rounds=1), *bare]))
    line = next(line for line in figure.axes[0].lines if str(line.get_label()).startswith("bare"))
    assert list(line.get_xdata()) == [1, 2]
    assert "no server: a loop each" in legend(figure)
